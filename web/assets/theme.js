// Runs before the page is drawn, so that a chosen theme does not flash in.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem('chiasm-theme');
  } catch {
    // A browser without storage follows the system.
  }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
