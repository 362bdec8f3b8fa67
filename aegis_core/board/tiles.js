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
  const from = document.createElement("button");
  from.type = "button";
  from.className = "aegis-from";
  from.textContent = "i";
  tile.append(label, value, note, svg, from);
  host.append(tile);
  return { tile, label, value, note, path, from };
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

function whereFrom(host, title, sql, lineage) {
  const dialog = document.createElement("dialog");
  dialog.className = "aegis-dialog";
  dialog.setAttribute("aria-label", `Where from: ${title}`);
  line(dialog, "h2", `Where “${title}” comes from`);
  line(dialog, "p", "The query:");
  line(dialog, "pre", sql).tabIndex = 0;
  line(dialog, "p", "The model that judges, the run and the data that made it:");
  const list = document.createElement("dl");
  const run = lineage.find(([label]) => label === "run")?.[1];
  for (const [label, value] of lineage) {
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
  dialog.append(list);
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
        if (!shown.has(given.id)) shown.set(given.id, makeTile(el));
        const parts = shown.get(given.id);
        parts.tile.dataset.tile = given.id;
        parts.tile.dataset.tone = given.tone ?? "";
        parts.label.textContent = given.label;
        parts.value.textContent = given.value;
        parts.value.classList.toggle("long", given.value.length > 10);
        parts.note.textContent = given.note;
        parts.from.setAttribute("aria-label", `Where from: ${given.label}`);
        parts.from.onclick = () => {
          const { lineage, ...sources } = model.get("sources");
          whereFrom(el, given.label, sources[given.id]?.sql ?? "", lineage ?? []);
        };
      }
      const trends = model.get("trends");
      for (const [id, { path }] of shown) {
        path.setAttribute("d", trends[id]?.length > 1 ? sparkline(trends[id]) : "");
      }
    }
    model.on("change:tiles", show);
    model.on("change:trends", show);
    show();
  },
};
