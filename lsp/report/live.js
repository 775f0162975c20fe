"use strict";
// The bar asks for the run's state each second. Where the report has another version, it is loaded in a
// frame behind the one that is seen, put as the reader has that one, and then takes its place.
const EACH = 1000, AFTER_A_TOUCH = 1000;
const byId = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
let shown = "", newest = "", touched = -Infinity;

async function ask() {
  let answer;
  try {
    answer = await fetch("state");
  } catch (error) {
    problem("lsp view does not answer: it has ended, and its terminal says why. What is below stays as it was.");
    return;
  }
  if (!answer.ok) {
    problem("This address is of another lsp view, which has ended; the terminal of the new one has its own.");
    return;
  }
  const state = await answer.json();
  problem(state.problem || "");
  if (state.problem) return;
  tell(state);
  newest = state.version;
}

function problem(text) {
  byId("problem").hidden = !text;
  if (byId("problem").textContent !== text) byId("problem").textContent = text;
  if (text) byId("dot").className = "dot bad";
}

function tell(state) {
  const set = (id, text) => { if (byId(id).textContent !== text) byId(id).textContent = text; };
  const bad = !state.going && state.status !== "finished";
  byId("dot").className = "dot" + (state.going ? " going" : bad ? " bad" : "");
  set("status", state.status);
  set("step", state.step + " of " + state.steps + " steps");
  set("words", state.words === state.status ? "" : state.words);
  byId("progress").max = state.steps;
  byId("progress").value = state.step;
  document.title = state.step + "/" + state.steps + " " + (state.going ? "" : state.status + " ") + document.body.dataset.title;
}

async function load(version) {
  byId("empty").textContent = "The report is being drawn.";
  const next = document.createElement("iframe");
  next.title = "Report";
  next.className = "behind";
  next.src = "report/" + encodeURIComponent(version);
  const loaded = new Promise((done) => next.addEventListener("load", done));
  byId("frames").append(next);
  await loaded;
  const front = byId("report");
  if (!next.contentDocument || !next.contentDocument.querySelector("meta[charset]")) {
    next.remove();  // nobody answered, which the next question will say
    return;
  }
  while (front && busy(front)) await pause(100);
  if (front) {
    await restore(next, remember(front));
    front.remove();
  }
  byId("empty").hidden = true;
  next.id = "report";
  next.classList.remove("behind");
  shown = decodeURIComponent(next.contentWindow.location.pathname.split("/").pop());
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "input", "scroll"])
    next.contentDocument.addEventListener(kind, (event) => {
      if (kind !== "pointermove" || event.buttons) touched = performance.now();
    }, { capture: true, passive: true });
}

// Whoever scrolls, drags, types or has text selected is not interrupted.
function busy(frame) {
  const selects = !frame.contentWindow.getSelection().isCollapsed;
  byId("note").textContent = selects ? "text is selected: the report waits" : "";
  return selects || performance.now() - touched < AFTER_A_TOUCH;
}

const sectionOf = (element) => (element.closest("section[id]") || { id: "" }).id;

// Each <details> by its section and summary, numbers left out, and its turn among those that are the same.
function eachDetails(page, visit) {
  const turns = new Map();
  for (const details of page.querySelectorAll("details")) {
    const summary = details.querySelector("summary");
    const name = sectionOf(details) + " " + (summary ? summary.textContent.replace(/[\d.]+/g, "#") : "");
    const turn = turns.get(name) || 0;
    turns.set(name, turn + 1);
    visit(details, name + " " + turn);
  }
}

const controlsOf = (page) => [...page.querySelectorAll("select[id], input[id]")];
// A slider that says its value in words keeps the words: the values behind them move.
const wordsOf = (control) => control.type === "range" ? control.getAttribute("aria-valuetext") : null;

function remember(frame) {
  const page = frame.contentDocument, open = new Map(), controls = new Map();
  eachDetails(page, (details, name) => open.set(name, details.open));
  const reading = page.querySelector(".board details[open]");
  for (const control of controlsOf(page)) {
    const follows = control.type === "range" && control.value === control.max && !reading;
    if (!follows) controls.set(control.id, { value: control.value, checked: control.checked, words: wordsOf(control) });
  }
  const y = frame.contentWindow.scrollY;
  const above = [...page.querySelectorAll("section[id]")].filter((section) => section.getBoundingClientRect().top <= 0).pop();
  const active = page.activeElement;
  const caret = active && active.type === "search" ? [active.selectionStart, active.selectionEnd] : null;
  let focus = active && active.id ? { id: active.id, caret } : null;
  eachDetails(page, (details, name) => { if (active && active.parentElement === details) focus = { name }; });
  return { open, controls, y, focus, section: above && above.id, offset: above && above.getBoundingClientRect().top };
}

async function restore(frame, kept) {
  const page = frame.contentDocument, names = new Map();
  const controls = controlsOf(page).sort((a, b) => (b.tagName === "SELECT") - (a.tagName === "SELECT"));
  for (const control of controls) {
    const was = kept.controls.get(control.id);
    if (was) put(control, was);
  }
  eachDetails(page, (details, name) => {
    names.set(name, details);
    if (kept.open.has(name)) details.open = kept.open.get(name);
  });
  await pause(50);  // what opens fills itself after an event
  const section = kept.section && page.getElementById(kept.section);
  const y = section ? section.getBoundingClientRect().top + frame.contentWindow.scrollY - kept.offset : kept.y;
  frame.contentWindow.scrollTo({ top: y, behavior: "instant" });
  if (!kept.focus) return;
  const focused = kept.focus.id ? page.getElementById(kept.focus.id) : (names.get(kept.focus.name) || page).querySelector("summary");
  if (!focused) return;
  focused.focus({ preventScroll: true });
  if (kept.focus.caret) focused.setSelectionRange(...kept.focus.caret);
}

function put(control, was) {
  const change = () => { for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind, { bubbles: true })); };
  if (control.type === "checkbox" || control.type === "radio") {
    if (control.checked !== was.checked) { control.checked = was.checked; change(); }
  } else if (was.words !== null) {
    const number = (words) => Number((words.match(/\d+/) || [NaN])[0]);
    let low = Number(control.min), high = Number(control.max);
    while (low < high) {  // the words' numbers ascend
      const middle = (low + high) >> 1;
      control.value = middle;
      change();
      if (number(wordsOf(control)) < number(was.words)) low = middle + 1; else high = middle;
    }
    control.value = low;
    change();
  } else if (control.value !== was.value) {
    control.value = was.value;
    change();
  }
}

async function always(what) {
  for (;;) {
    await what();
    await pause(EACH);
  }
}
always(ask);
always(async () => { if (newest && newest !== shown && !document.hidden) await load(newest); });
