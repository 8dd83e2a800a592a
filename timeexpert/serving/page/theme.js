// Light, dark, or as the system has it. Runs before the page is drawn, so that it does not flash.
"use strict";
(() => {
  const THEMES = { auto: "as the system", light: "light", dark: "dark" };
  const read = () => {
    try { return localStorage.getItem("timeexpert.theme"); } catch { return null; }
  };
  const use = (theme) => {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Colours: ${THEMES[theme]}`;
  };
  let theme = Object.hasOwn(THEMES, read() ?? "") ? read() : "auto";
  use(theme);
  document.addEventListener("DOMContentLoaded", () => {
    use(theme);
    document.getElementById("theme").addEventListener("click", () => {
      const names = Object.keys(THEMES);
      theme = names[(names.indexOf(theme) + 1) % names.length];
      try { localStorage.setItem("timeexpert.theme", theme); } catch { /* private mode: for this visit only */ }
      use(theme);
    });
  });
})();
