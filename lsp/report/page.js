"use strict";
// A query: step, id, text, finish, tokens, V, reward, advantage, legal, V_Q, answers, times in the step,
// first step, right answer. An answer: text, R, R_Q, advantage, tokens, finish, checks, times.
// Plays of one step as cards. Model text goes in as text nodes alone.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const [slider, filter, beside] = ["step", "filter", "beside"].map(byId);
const game = data.game, scale = scales(game.plays);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value, digits) {
  return value === null ? "—" : value.toFixed(digits === undefined ? 3 : digits);
}

// Least and greatest value of each number in a game, zero among them, so that its bars fill their
// room and can be compared over steps.
function scales(plays) {
  const found = { reward: [0, 1e-9], quality: [0, 7], solver: [0, 1e-9], challenger: [0, 1e-9] };
  const grow = (key, value) => {
    found[key] = [Math.min(found[key][0], value || 0), Math.max(found[key][1], value || 0)];
  };
  for (const queries of plays) for (const q of queries) {
    grow("challenger", q[7]);
    for (const a of q[10]) { grow("reward", a[1]); grow("quality", a[2]); grow("solver", a[3]); }
  }
  return found;
}

function addBar(parent, label, value, kind) {
  parent.append(element("span", "", label));
  const bar = element("span", "bar" + (kind === "challenger" ? " challenger" : ""));
  const [low, high] = scale[kind];
  const place = (x) => (100 * (x - low)) / (high - low);
  const fill = element("i"), zero = element("b");
  fill.style.left = place(Math.min(0, value)) + "%";
  fill.style.width = place(Math.abs(value) + low) + "%";
  zero.style.left = place(0) + "%";
  bar.append(fill, zero);
  bar.setAttribute("aria-hidden", "true");
  parent.append(bar, element("span", "", number(value)));
}

function answerOf(a, right) {
  const row = element("div", "answer");
  const text = element("div", "text", data.texts[a[0]]);
  text.dir = "auto";
  const bars = element("div", "bars");
  addBar(bars, "R", a[1], "reward");
  addBar(bars, "R_Q", a[2], "quality");
  addBar(bars, "advantage", a[3], "solver");
  const facts = element("div", "facts");
  if (data.texts[a[6]]) facts.append(element("span", "checks", data.texts[a[6]]));
  if (right !== null) facts.append(element("span", "mark", a[0] === right ? "✓ right" : "✗ wrong"));
  if (a[7] > 1) facts.append(element("span", "mark", "× " + a[7]));
  facts.append(element("span", "", a[4] + " tokens"));
  facts.append(element("span", a[5] === "stop" ? "" : "mark bad", a[5] === "stop" ? "ended" : "cut at the limit"));
  row.append(text, bars, facts);
  return row;
}

function cardOf(q, step) {
  const card = element("details", q[10].length ? "card" : "card unplayed");
  const summary = element("summary");
  const text = element("span", "text", data.texts[q[2]] || "(empty)");
  text.dir = "auto";
  summary.append(text);
  if (q[7] !== null) {
    const bars = element("span", "bars");
    addBar(bars, "advantage", q[7], "challenger");
    summary.append(bars);
  }
  const facts = element("span", "facts");
  facts.append(element("span", "", "V " + number(q[5])), element("span", "", "V_Q " + number(q[9], 2)));
  if (q[6] !== null) facts.append(element("span", "", "reward " + number(q[6])));
  if (q[4] !== null) facts.append(element("span", "", q[4] + " tokens"));
  facts.append(q[8] ? element("span", "mark", "legal") : element("span", "mark bad", q[3] === "stop" ? "not legal" : "not played: " + q[3]));
  if (q[11] > 1) facts.append(element("span", "mark", "× " + q[11] + " in this step"));
  if (q[13] !== null) facts.append(element("span", "", "right answer: " + data.texts[q[13]]));
  if (q[12] < step) facts.append(element("span", "mark", "asked before, in step " + q[12]));
  summary.append(facts);
  card.append(summary);
  card.addEventListener("toggle", () => {
    if (!card.open || card.querySelector(".answers")) return;
    const answers = element("div", "answers");
    if (!q[10].length) answers.append(element("p", "note", "It was not played, so nobody answered."));
    answers.append(...q[10].map((a) => answerOf(a, q[13])));
    card.append(answers);
  });
  return card;
}

function matches(q, wanted) {
  const holds = (i) => data.texts[i].toLowerCase().includes(wanted);
  return !wanted || holds(q[2]) || q[10].some((a) => holds(a[0]));
}

function fill(board, at, wanted) {
  const step = game.steps[at];
  const found = game.plays[at].filter((q) => matches(q, wanted));
  board.replaceChildren(element("h3", "", "Step " + step + (at === 0 ? ", before any update" : "")), ...found.map((q) => cardOf(q, step)));
  return found.length + " of " + game.plays[at].length;
}

function draw() {
  const at = Number(slider.value), wanted = filter.value.toLowerCase();
  byId("step-name").textContent = game.steps[at] + " of " + game.steps[game.steps.length - 1];
  slider.setAttribute("aria-valuetext", "step " + game.steps[at]);
  const shown = fill(byId("board"), at, wanted);
  byId("board-first").hidden = !beside.checked;
  byId("boards").classList.toggle("two", beside.checked);
  if (beside.checked) fill(byId("board-first"), 0, wanted);
  byId("count").textContent = shown + " queries shown.";
}

// The sentence of a term beside it, while the pointer is on either or the term has the focus.
const tip = byId("tip");
let explained, dismissed;
function place() {
  if (tip.hidden) return;
  const at = explained.getBoundingClientRect(), width = document.documentElement.clientWidth;
  const fits = at.bottom + tip.offsetHeight <= innerHeight;
  tip.style.left = Math.max(8, Math.min(at.left, width - tip.offsetWidth - 8)) + "px";
  tip.style.top = (fits ? at.bottom : at.top - tip.offsetHeight) + "px";
}
function explain(event) {
  if (tip.contains(event.target)) return;
  explained = event.target.closest(".term") || document.activeElement.closest(".term");
  if (explained !== dismissed) dismissed = null;
  tip.hidden = !explained || explained === dismissed;
  if (explained) tip.textContent = byId(explained.getAttribute("aria-describedby")).textContent;
  place();
}
for (const type of ["pointerover", "focusin"]) document.addEventListener(type, explain);
for (const type of ["scroll", "resize"]) addEventListener(type, place);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !tip.hidden) { dismissed = explained; tip.hidden = true; }
});
document.addEventListener("click", (event) => {  // a finger has no pointer that hovers
  if (event.target.closest(".term") && matchMedia("(hover: none)").matches) event.preventDefault();
});

slider.max = slider.value = game.steps.length - 1;
byId("sample-note").textContent = game.note;
for (const control of [slider, filter, beside]) control.addEventListener("input", draw);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
draw();
