// The gallery: one sample at a time of the chosen run, group and class.
const viewer = byId("viewer");
if (viewer) {
  const runBox = byId("gallery-run"), classBox = byId("gallery-class"), strip = byId("strip");
  const place = byId("place"), previous = byId("previous"), next = byId("next");
  let fitting = [], at = 0;

  const step = (to, focus) => {
    at = Math.max(0, Math.min(fitting.length - 1, to));
    fitting.forEach((card, index) => card.classList.toggle("current", index === at));
    all("button", strip).forEach((button, index) => {
      button.tabIndex = index === at ? 0 : -1;
      if (index === at) { button.setAttribute("aria-current", "true"); } else { button.removeAttribute("aria-current"); }
    });
    const words = document.createElement("span");
    words.className = "hidden";
    words.textContent = fitting.length ? `: ${fitting[at].dataset.words}` : "";
    place.replaceChildren(fitting.length ? `${at + 1} of ${fitting.length}` : "None of this choice.", words);
    previous.disabled = at <= 0;
    next.disabled = at >= fitting.length - 1;
    const button = strip.children[at];
    if (!button) { return; }
    strip.scrollLeft = button.offsetLeft - strip.offsetLeft - (strip.clientWidth - button.offsetWidth) / 2;
    if (focus) { button.focus({ preventScroll: true }); }
  };

  // A small picture of a card, or its number where it has none.
  const thumb = (card, index) => {
    const button = document.createElement("button"), image = card.querySelector("img");
    button.type = "button";
    button.setAttribute("aria-label", card.dataset.words);
    if (image) {
      const copy = image.cloneNode();
      copy.alt = "";
      button.append(copy);
    } else {
      button.textContent = card.dataset.short;
    }
    button.addEventListener("click", () => step(index, true));
    return button;
  };

  const choose = () => {
    const group = viewer.querySelector('input[name="group"]:checked').value, wanted = classBox.value;
    fitting = [];
    all(".card", viewer).forEach((card) => {
      const inRun = card.parentNode.dataset.run === runBox.value && shown(`run-${runBox.value}`);
      const inClass = wanted === "" ? card.dataset.overall === "1" : card.dataset.class === wanted;
      const fits = inRun && inClass && card.dataset.group === group;
      card.classList.toggle("off", !fits);
      card.classList.remove("current");
      if (fits) { fitting.push(card); }
    });
    strip.replaceChildren(...fitting.map(thumb));
    step(0, false);
  };

  const followRuns = () => {
    const options = [...runBox.options];
    options.forEach((option) => { option.hidden = option.disabled = !shown(`run-${option.value}`); });
    const kept = options.find((option) => option.selected && !option.disabled);
    const instead = kept || options.find((option) => !option.disabled);
    if (instead) { instead.selected = true; }
    choose();
  };
  followers.push(followRuns);
  all('input[name="group"]', viewer).forEach((radio) => radio.addEventListener("change", choose));
  runBox.addEventListener("change", choose);
  classBox.addEventListener("change", choose);
  previous.addEventListener("click", () => step(at - 1, previous.disabled));
  next.addEventListener("click", () => step(at + 1, next.disabled));
  const marks = byId("gallery-marks");
  if (marks) { marks.addEventListener("change", () => viewer.classList.toggle("unmarked", !marks.checked)); }
  viewer.addEventListener("keydown", (event) => {
    const target = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: fitting.length - 1 }[event.key];
    if (target === undefined || event.target.matches("input, select, textarea, .scroll")) { return; }
    event.preventDefault();
    step(target, strip.contains(event.target) || event.target.disabled);
  });
}
