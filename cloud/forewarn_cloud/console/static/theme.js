// Light or dark, as the reader's system prefers. Loaded before the page is drawn, so that nothing flashes.
"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { document.documentElement.dataset.bsTheme = dark.matches ? "dark" : "light"; };
  apply();
  dark.addEventListener("change", () => { apply(); document.dispatchEvent(new Event("theme")); });
})();
