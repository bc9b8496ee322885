// Light and dark, tables as CSV, and what printing and narrow screens need.
const root = document.documentElement, themeButton = byId("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
const pressTheme = () => themeButton.setAttribute("aria-pressed", String(isDark()));
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("boxnn-theme", root.dataset.theme); } catch (refused) { /* It lasts until the page is closed. */ }
  pressTheme();
});
systemDark.addEventListener("change", pressTheme);
pressTheme();

const field = (text) => (/[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

function tableCsv(table) {
  const visible = (node) => !node.classList.contains("off");
  const rows = all("tr", table).filter(visible).map((row) => all("th, td", row).filter(visible));
  const text = (cell) => (cell.dataset.csv === undefined ? cell.textContent.trim() : cell.dataset.csv);
  return rows.map((cells) => cells.map((cell) => field(text(cell))).join(","));
}

function curvesCsv() {
  const runs = data.runs.filter((run) => shown(run.key));
  const rows = data.published.filter((row) => shown(row.key));
  const columns = [];
  for (const run of runs) {
    columns.push([run.name, (radius) => (radius < run.values.length ? run.values[radius] : 0)]);
    if (run.attack) {
      columns.push([`${run.name} under attack`, (radius) => (radius < run.attack.length ? run.attack[radius] : "")]);
    }
  }
  for (const row of rows) {
    columns.push([row.key === "family-best-published" ? row.name : `${row.name} (paper)`, (radius) => row.values[row.radii.indexOf(radius)] ?? ""]);
  }
  const lines = [["radius", ...columns.map((column) => field(column[0]))].join(",")];
  const end = Math.max(data.last + 1, ...data.runs.map((run) => run.values.length));
  for (let radius = 0; radius < end; radius += 1) {
    lines.push([radius, ...columns.map((column) => column[1](radius))].join(","));
  }
  return lines;
}

// Where the clipboard is out of reach: from a text field, or by hand.
function copyFrom(button, text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.readOnly = true;
  area.setAttribute("aria-label", "CSV to copy");
  button.parentNode.append(area);
  area.select();
  const copied = document.execCommand("copy");
  if (copied) {
    area.remove();
    button.focus();
  }
  return copied;
}

all("button[data-copy]").forEach((button) => {
  const status = button.parentNode.querySelector("[role=status]");
  button.addEventListener("click", async () => {
    all("textarea", button.parentNode).forEach((old) => old.remove());
    status.textContent = "";
    const name = button.dataset.copy;
    const lines = name === "curves" ? curvesCsv() : tableCsv(byId(name));
    const text = `${lines.join("\n")}\n`;
    let copied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch (refused) {
      copied = copyFrom(button, text);
    }
    const rows = lines.length - 1;
    status.textContent = copied ? `Copied ${rows} row${rows === 1 ? "" : "s"}.` : "Press Ctrl+C (or ⌘C) to copy.";
  });
});

// Regions are stops for the keyboard only where there is something to scroll.
const stops = () => all(".scroll").forEach((region) => {
  region.tabIndex = region.scrollWidth > region.clientWidth ? 0 : -1;
});
addEventListener("resize", stops);
document.addEventListener("toggle", stops, true);
followers.push(stops);

let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details:not([open])");
  closed.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }));

apply();
