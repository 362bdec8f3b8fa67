// Numbers that a visitor sees first. Every string becomes a text node.

const SVG = "http://www.w3.org/2000/svg";

function sparkline(values) {
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const step = 100 / (values.length - 1);
  return values
    .map((v, i) => `${i ? "L" : "M"}${(i * step).toFixed(1)} ${(22 - ((v - low) / span) * 20).toFixed(1)}`)
    .join("");
}

function makeTile(host) {
  const tile = document.createElement("div");
  tile.className = "aegis-tile";
  tile.setAttribute("role", "listitem");
  const [label, value, note] = ["label", "value", "note"].map((part) => {
    const line = document.createElement("div");
    line.className = part;
    return line;
  });
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  svg.append(path);
  tile.append(label, value, note, svg);
  host.append(tile);
  return { tile, label, value, note, path };
}

export default {
  render({ model, el }) {
    el.classList.add("aegis-tiles");
    el.setAttribute("role", "list");
    const shown = new Map();
    function show() {
      for (const given of model.get("tiles")) {
        if (!shown.has(given.id)) shown.set(given.id, makeTile(el));
        const parts = shown.get(given.id);
        parts.tile.dataset.tile = given.id;
        parts.tile.dataset.tone = given.tone ?? "";
        parts.label.textContent = given.label;
        parts.value.textContent = given.value;
        parts.note.textContent = given.note;
        parts.path.setAttribute("d", given.trend?.length > 1 ? sparkline(given.trend) : "");
      }
    }
    model.on("change:tiles", show);
    show();
  },
};
