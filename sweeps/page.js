"use strict";
// The table of all points, sorted by the column whose name was pressed; numbers by size.
const table = document.getElementById("table");
const body = table.tBodies[0];

function valueOf(row, at) {
  const text = row.cells[at].textContent.replace(" ★", "");
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b);
}

for (const head of table.tHead.rows[0].cells) {
  const button = head.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => compare(valueOf(a, head.cellIndex), valueOf(b, head.cellIndex)));
    body.append(...(down ? rows.reverse() : rows));
  });
}
