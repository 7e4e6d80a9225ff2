// Light or dark: the system's wish unless a choice was kept. Runs before the first paint, so that nothing flashes.
// The one classic script of ours; it knows no desk.
(function () {
  "use strict";
  let kept = "system";
  try {
    kept = localStorage.getItem("theme") || "system";
  } catch {
    kept = "system"; // storage may be forbidden: then nothing is remembered
  }
  document.documentElement.dataset.theme = ["light", "dark"].includes(kept) ? kept : "system";
})();
