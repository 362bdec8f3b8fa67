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

function makeTile(host, given) {
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
  tile.append(label, value, note, svg, fromButton(given.id, given.label));
  host.append(tile);
  return { tile, label, value, note, path };
}

function line(parent, tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

// The report of a run, which the board's server hands out; JupyterLab has the file.
function reportUrl(runId) {
  const base = document.body.dataset.baseUrl;
  return base ? `${base.replace(/voila\/$/, "")}aegis/reports/${encodeURIComponent(runId)}` : null;
}

// Label and value of a model, and what made it; a report that the server hands out is a link.
function lineageOf(pairs) {
  const list = document.createElement("dl");
  const run = pairs.find(([label]) => label === "run")?.[1];
  for (const [label, value] of pairs) {
    line(list, "dt", label);
    const told = line(list, "dd", "");
    const url = label === "report" && run ? reportUrl(run) : null;
    if (url) {
      const link = line(told, "a", "open the report");
      link.href = url;
      link.target = "_blank";
      link.rel = "noopener";
    } else {
      told.textContent = value;
    }
  }
  return list;
}

function whereFrom(host, title, { sql = "", note = "" }, [now = [], ...earlier]) {
  const dialog = document.createElement("dialog");
  dialog.className = "aegis-dialog";
  dialog.setAttribute("aria-label", `Where from: ${title}`);
  line(dialog, "h2", `Where “${title}” comes from`);
  line(dialog, "p", "The query:");
  line(dialog, "pre", sql).tabIndex = 0;
  if (note) line(dialog, "p", note);
  line(dialog, "p", "The model that judges, the run and the data that made it:");
  dialog.append(lineageOf(now));
  if (earlier.length) line(dialog, "p", "Earlier in this period judged:");
  dialog.append(...earlier.map(lineageOf));
  const close = line(dialog, "button", "Close");
  close.type = "button";
  close.className = "aegis-button";
  close.onclick = () => dialog.close();
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => dialog.remove());
  host.append(dialog);
  dialog.showModal();
}

export default {
  render({ model, el }) {
    el.classList.add("aegis-tiles");
    el.setAttribute("role", "list");
    const shown = new Map();
    function show() {
      for (const given of model.get("tiles")) {
        if (!shown.has(given.id)) shown.set(given.id, makeTile(el, given));
        const parts = shown.get(given.id);
        parts.tile.dataset.tile = given.id;
        parts.tile.dataset.tone = given.tone ?? "";
        parts.label.textContent = given.label;
        parts.value.textContent = given.value;
        parts.value.classList.toggle("long", given.value.length > 10);
        parts.note.textContent = given.note;
      }
      const trends = model.get("trends");
      for (const [id, { path }] of shown) {
        path.setAttribute("d", trends[id]?.length > 1 ? sparkline(trends[id]) : "");
      }
    }
    // Of all parts of this board; another one in the same JupyterLab has tiles of its own.
    const board = (node) => node.closest(".aegis-board");
    const asked = ({ target, detail }) => {
      if (board(target) !== board(el)) return;
      whereFrom(el, detail.title, model.get("queries")[detail.part] ?? {}, model.get("models"));
    };
    document.addEventListener("aegis-where-from", asked);
    model.on("change:tiles", show);
    model.on("change:trends", show);
    show();
    return () => document.removeEventListener("aegis-where-from", asked);
  },
};
