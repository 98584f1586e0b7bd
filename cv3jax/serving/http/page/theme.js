// Colours: the system's, or the ones that were chosen here. Loaded before the page is painted.
(() => {
  const NAMES = ["auto", "light", "dark"];
  const root = document.documentElement;
  const read = () => {
    try {
      return localStorage.getItem("theme") || "auto";
    } catch {
      return "auto";
    }
  };
  let chosen = NAMES.includes(read()) ? read() : "auto";

  function show() {
    root.dataset.theme = chosen;
    const button = document.getElementById("theme");
    if (button === null) return;
    button.textContent = `◐ ${chosen[0].toUpperCase()}${chosen.slice(1)}`;
    button.setAttribute("aria-label", `Colours: ${chosen}`);
  }

  show();
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      chosen = NAMES[(NAMES.indexOf(chosen) + 1) % NAMES.length];
      try {
        localStorage.setItem("theme", chosen);
      } catch {
        // a browser that keeps nothing shows it until the page is closed
      }
      show();
    });
  });
})();
