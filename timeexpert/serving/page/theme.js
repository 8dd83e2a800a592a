// Light, dark, or as the system has it. Runs before the page is drawn, so that it does not flash.
"use strict";
(() => {
  const THEMES = ["auto", "light", "dark"];
  const read = () => {
    try { return localStorage.getItem("timeexpert.theme"); } catch { return null; }
  };
  const use = (theme) => {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Colours: ${theme}`;
  };
  let theme = THEMES.includes(read()) ? read() : "auto";
  use(theme);
  document.addEventListener("DOMContentLoaded", () => {
    use(theme);
    document.getElementById("theme").addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      try { localStorage.setItem("timeexpert.theme", theme); } catch { /* private mode: for this visit only */ }
      use(theme);
    });
  });
})();
