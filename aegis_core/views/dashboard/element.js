// Part of every view: an element of the page, what the browser keeps, and the theme to begin with.

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
}

function stored(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(name, value);
    return localStorage.getItem(name);
  } catch {
    return null; // storage may be switched off
  }
}

function startingTheme() {
  const wanted = new URLSearchParams(location.search).get("aegis") || stored("aegis-theme");
  if (wanted === "dark" || wanted === "light") return wanted;
  const lab = document.body.dataset.voila ? null : document.body.dataset.jpThemeLight;
  if (lab) return lab === "false" ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}
