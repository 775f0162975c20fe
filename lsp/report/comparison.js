"use strict";
// Plays of one step of two runs as cards, side by side. Model text goes in as text nodes alone.
// An answer: text, R, times, checks; texts by their numbers.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const [slider, left, right, filter] = ["step", "left", "right", "filter"].map(byId);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function textOf(number, kind) {
  const made = element(kind, "text", data.texts[number] || "(empty)");
  made.dir = "auto";
  return made;
}

function number(value) {
  return value === null ? "—" : value.toFixed(3);
}

function answerOf(answer, right) {
  const [text, reward, times, checks] = answer;
  const row = element("div", "answer");
  const facts = element("div", "facts");
  facts.append(element("span", "", "R " + number(reward)));
  if (times > 1) facts.append(element("span", "mark", "× " + times));
  if (right !== null) facts.append(text === right ? element("span", "right", "✓") : element("span", "wrong", "✗"));
  if (data.texts[checks]) facts.append(element("span", "checks", data.texts[checks]));
  row.append(textOf(text, "div"), facts);
  return row;
}

function cardOf(query, alsoAsked, other) {
  const card = element("details", query.answers.length ? "card" : "card unplayed");
  const summary = element("summary");
  const facts = element("span", "facts");
  facts.append(element("span", "", "V " + number(query.value)));
  facts.append(element("span", query.end === "legal" ? "mark" : "mark bad", query.end));
  if (query.right !== null) facts.append(element("span", "", "right answer: " + data.texts[query.right]));
  if (alsoAsked) facts.append(element("span", "mark", "in " + other + " too"));
  summary.append(textOf(query.text, "span"), facts);
  card.append(summary);
  card.addEventListener("toggle", () => {
    if (!card.open || card.querySelector(".answers")) return;
    const answers = element("div", "answers");
    if (!query.answers.length) answers.append(element("p", "note", "It was not played, so nobody answered."));
    answers.append(...query.answers.map((answer) => answerOf(answer, query.right)));
    card.append(answers);
  });
  return card;
}

function matches(query, wanted) {
  const holds = (i) => data.texts[i].toLowerCase().includes(wanted);
  return !wanted || holds(query.text) || query.answers.some((answer) => holds(answer[0]));
}

function fill(board, run, other, at, wanted) {
  const asked = new Set(other.plays[at].map((query) => query.text));
  const found = run.plays[at].filter((query) => matches(query, wanted));
  const letter = other.name.split(":")[0];
  board.replaceChildren(
    element("h3", "", run.name),
    ...found.map((query) => cardOf(query, other !== run && asked.has(query.text), letter)),
  );
  return found.length + " of " + run.plays[at].length;
}

function draw() {
  const at = Number(slider.value), wanted = filter.value.toLowerCase();
  const [one, other] = [left, right].map((choice) => data.runs[Number(choice.value)]);
  const last = data.steps[data.steps.length - 1];
  byId("step-name").textContent = data.steps[at] + " of " + last;
  slider.setAttribute("aria-valuetext", "step " + data.steps[at]);
  const counts = [fill(byId("board-left"), one, other, at, wanted), fill(byId("board-right"), other, one, at, wanted)];
  const which = data.whole ? "" : " Of " + data.steps.length + " steps, those whose texts fit this page.";
  byId("count").textContent = "Queries shown: " + counts.join(" and ") + "." + which;
}

function start() {
  if (!data.steps.length) {
    byId("controls").hidden = true;
    byId("count").textContent = "There is no step that all of these runs have.";
    return;
  }
  for (const choice of [left, right]) data.runs.forEach((run, i) => {
    const option = element("option", "", run.name);
    option.value = i;
    choice.append(option);
  });
  right.value = String(data.runs.findIndex((run) => run.name.split(":")[0] !== data.runs[0].name.split(":")[0]));
  slider.max = data.steps.length - 1;
  slider.value = data.steps.length - 1;
  for (const control of [slider, left, right, filter]) control.addEventListener("input", draw);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  draw();
}

start();
