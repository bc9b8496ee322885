// The crosshair of the certified curves, and the legend that shows and hides runs everywhere.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const percent = (value) => `${value.toFixed(1)} %`;
const followers = [];  // called when runs are shown or hidden

const plot = byId("plot"), chart = byId("curves"), cursor = byId("curves-cursor"), tip = byId("tip");
const area = data.area;
const everyRow = byId("every-row");
const entries = all("#legend > li").map((item) => ({
  key: item.dataset.key,
  of: item.dataset.of,
  item,
  box: item.querySelector("input"),
  name: item.querySelector("output").dataset.name,
}));
// Of published methods either the best is offered, or each.
const offered = (entry) => !entry.of || (entry.of === "each") === everyRow.checked;
const visible = (entry) => offered(entry) && entry.box.checked;
const shown = (key) => entries.some((entry) => entry.key === key && visible(entry));
let radiusNow = 0;

// The value of a run at a radius, or of a family of published rows: its best one.
function valueAt(key, radius) {
  const run = data.runs.find((one) => one.key === key);
  if (run) {
    const attack = run.attack && radius < run.attack.length ? run.attack[radius] : null;
    return { value: radius < run.values.length ? run.values[radius] : 0, attack, note: "" };
  }
  let best = null;
  for (const row of data.published) {
    const at = row.key === key ? row.radii.indexOf(radius) : -1;
    if (at >= 0 && (!best || row.values[at] > best.value)) {
      best = { value: row.values[at], attack: null, note: row.notes[at] };
    }
  }
  return best;
}

function draw(kind, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) { node.setAttribute(name, value); }
  cursor.appendChild(node);
}

function tipLine(swatch, name, value) {
  const line = document.createElement("div");
  const words = document.createElement("span"), number = document.createElement("span");
  words.className = "name";
  words.textContent = name;
  number.textContent = percent(value);
  line.append(swatch.cloneNode(true), words, number);
  return line;
}

function show(radius, withTip) {
  radiusNow = radius;
  const x = area.left + area.width * radius / data.last, spoken = [], lines = [];
  cursor.textContent = "";
  draw("path", { d: `M${x} ${area.top}v${area.height}` });
  for (const entry of entries) {
    const { key, item, name } = entry, found = valueAt(key, radius);
    item.querySelector("output[data-value]").textContent = found ? percent(found.value) + found.note : "–";
    const under = item.querySelector("output[data-attack]");
    if (under) { under.textContent = found.attack === null ? "–" : percent(found.attack); }
    if (!found || !visible(entry)) { continue; }
    spoken.push(`${name} ${percent(found.value)}`);
    lines.push([found.value, tipLine(item.querySelector(".swatch"), name, found.value)]);
    const values = [found.value];
    if (found.attack !== null) {
      spoken.push(`under attack ${percent(found.attack)}`);
      lines.push([found.attack, tipLine(item.querySelector(".under .swatch"), `${name}, under attack`, found.attack)]);
      values.push(found.attack);
    }
    for (const value of values) {
      draw("circle", { class: key, cx: x, cy: area.top + area.height * (1 - value / 100), r: 5 });
    }
  }
  byId("radius-value").textContent = radius;
  plot.setAttribute("aria-valuenow", radius);
  plot.setAttribute("aria-valuetext", `radius ${radius}: ${spoken.join(", ") || "nothing is shown"}`);
  const head = document.createElement("b");
  head.textContent = `radius ${radius}`;
  lines.sort((one, other) => other[0] - one[0]);
  tip.replaceChildren(head, ...lines.map((line) => line[1]));
  tip.classList.toggle("many", lines.length > 14);
  tip.hidden = !withTip;
  if (!withTip) { return; }
  // Beside the crosshair, on the side with more room, and never beyond the chart.
  const scale = plot.clientWidth / data.view[0], width = tip.offsetWidth;
  const beside = x < data.view[0] / 2 ? x * scale + 12 : x * scale - 12 - width;
  tip.style.left = `${Math.max(0, Math.min(plot.clientWidth - width, beside))}px`;
}

function follow(event) {
  const frame = chart.getBoundingClientRect();
  const x = (event.clientX - frame.left) * data.view[0] / frame.width;
  const radius = Math.round((x - area.left) / area.width * data.last);
  show(Math.max(0, Math.min(data.last, radius)), true);
}
chart.addEventListener("pointermove", follow);
chart.addEventListener("pointerdown", follow);
plot.addEventListener("pointerleave", () => { tip.hidden = document.activeElement !== plot; });
plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) { show(radiusNow, true); } });
plot.addEventListener("blur", () => { tip.hidden = true; });
plot.addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 };
  let to = event.key === "Home" ? 0 : event.key === "End" ? data.last : null;
  if (event.key in steps) { to = Math.max(0, Math.min(data.last, radiusNow + steps[event.key])); }
  if (event.key === "Escape") { tip.hidden = true; }
  if (to === null) { return; }
  event.preventDefault();
  show(to, true);
});

function apply() {
  for (const entry of entries) {
    entry.item.hidden = !offered(entry);
    all(`[data-series="${entry.key}"]`).forEach((node) => node.classList.toggle("off", !visible(entry)));
  }
  // Columns of the settings are runs in the order of the legend.
  data.runs.forEach((run, index) => {
    all(`.of-runs tr > :nth-child(${index + 2})`).forEach((cell) => cell.classList.toggle("off", !shown(run.key)));
  });
  show(radiusNow, false);
  followers.forEach((follower) => follower());
}
const dim = (key) => all("[data-series]", chart).forEach((line) => {
  line.classList.toggle("dim", key !== null && line.dataset.series !== key);
});
for (const { key, item, box } of entries) {
  box.addEventListener("change", apply);
  item.addEventListener("pointerenter", () => dim(box.checked ? key : null));
  item.addEventListener("pointerleave", () => dim(null));
  box.addEventListener("focus", () => { if (box.checked && box.matches(":focus-visible")) { dim(key); } });
  box.addEventListener("blur", () => dim(null));
}
if (everyRow) { everyRow.addEventListener("change", apply); }
all("button[data-show]").forEach((button) => button.addEventListener("click", () => {
  entries.forEach(({ box }) => { box.checked = button.dataset.show === "all"; });
  apply();
}));
