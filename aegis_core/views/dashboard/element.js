// Part of every view: an element of the page, what the browser keeps, the theme, the sign of life.

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

// A button that changes between the light and the dark theme, of which one is set at once.
function themeButton() {
  const made = element("button", "aegis-button");
  made.type = "button";
  const set = (wanted) => {
    document.body.dataset.aegis = wanted;
    const other = wanted === "dark" ? "light" : "dark";
    made.textContent = other === "dark" ? "☾ Dark" : "☀ Light";
    made.setAttribute("aria-label", `Switch to the ${other} theme`);
    made.onclick = () => {
      stored("aegis-theme", other);
      set(other);
    };
    window.dispatchEvent(new Event("aegis-theme"));
  };
  set(startingTheme());
  return made;
}

// Tells the kernel, whose loop goes on for so long, that the page is there.
function beating(model, message) {
  const beat = () => model.send({ ...message, visible: !document.hidden });
  beat();
  const timer = setInterval(beat, model.get("beat_s") * 1000);
  document.addEventListener("visibilitychange", beat);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", beat);
  };
}
