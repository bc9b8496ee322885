(function () {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const theme = localStorage.getItem("boxnn-theme");
    if (theme === "dark" || theme === "light") { root.dataset.theme = theme; }
  } catch (refused) { /* Storage can be forbidden; then the page follows the system. */ }
})();
