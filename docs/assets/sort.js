// Tables within an element of class "sortable": a click on a heading sorts the rows by that column.
"use strict";

function sortable(table) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.tabIndex = 0;
    heading.title = "sort by this column";
    const sort = () => {
      // Figures begin with the largest, words with the first; a second time the other way round.
      const up = heading.getAttribute("aria-sort") === "descending"
        || (!heading.hasAttribute("aria-sort") && !numeric(body, column));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      [...body.rows].sort((one, two) => compare(one, two, column, up)).forEach((row) => body.append(row));
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sort();
      }
    });
  });
}

function text(row, column) {
  return row.cells[column].textContent.trim();
}

function number(words) {
  const [digits, size] = words.replaceAll(",", "").split(" ");
  return Number(digits) * ({ thousand: 1e3, million: 1e6, billion: 1e9 }[size] ?? 1);
}

function numeric(body, column) {
  return [...body.rows].some((row) => /^\d/.test(text(row, column)));
}

// Empty cells come last, whichever way.
function compare(one, two, column, up) {
  const [a, b] = [text(one, column), text(two, column)];
  const [none, other] = [!a || a === "-", !b || b === "-"];
  if (none || other) return none - other;
  const [x, y] = [number(a), number(b)];
  const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  return up ? order : -order;
}

document.querySelectorAll(".sortable table").forEach(sortable);
