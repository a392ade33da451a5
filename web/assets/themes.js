// The button for light and dark. Without a choice the page follows the system.

const NAME = 'chiasm-theme';

/** @param {HTMLButtonElement} button */
export function createThemeButton(button) {
  const root = document.documentElement;
  const system = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
  const label = () => {
    button.textContent = isDark() ? 'Light' : 'Dark';
    button.setAttribute('aria-label', isDark() ? 'Light colours' : 'Dark colours');
  };
  button.addEventListener('click', () => {
    const next = isDark() ? 'light' : 'dark';
    // Back to what the system has means following it again.
    const follows = (next === 'dark') === system.matches;
    if (follows) delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (follows) localStorage.removeItem(NAME);
      else localStorage.setItem(NAME, next);
    } catch {
      // Not kept; it still holds for this visit.
    }
    label();
  });
  system.addEventListener('change', label);
  label();
}
