/** Dark, light, or as the system prefers. */
export type Theme = "system" | "light" | "dark";

const KEY = "aquatint.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

export const storedTheme = (): Theme => (localStorage.getItem(KEY) as Theme | null) ?? "system";

export function applyTheme(theme: Theme): void {
  localStorage.setItem(KEY, theme);
  const isDark = theme === "dark" || (theme === "system" && dark.matches);
  document.documentElement.classList.toggle("pf-v6-theme-dark", isDark);
}

dark.addEventListener("change", () => applyTheme(storedTheme()));
