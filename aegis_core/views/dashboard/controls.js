// Period, filters and axes. The kernel decides what they come to; the address says it, so that a
// view can be sent to somebody else and survives a reload.

const LABELS = {
  decision: "Decision", factor: "Reason", category: "Category", min_amount: "Amount from",
  max_amount: "Amount to", named: "Only of", bars: "Bars", x: "Across", y: "Up", z: "Depth",
};
const AXIS_NAMES = {
  hour: "hour", amount: "amount", distance: "distance", travel: "travel evidence", risk: "risk",
  score: "score",
};

function labelled(name, input) {
  const field = element("div", "aegis-field");
  const label = element("label", "", LABELS[name]);
  input.id = `aegis-${name}`;
  label.htmlFor = input.id;
  field.append(label, input);
  return field;
}

function select(options) {
  const made = element("select");
  fill(made, options);
  return made;
}

function fill(made, options) {
  const value = made.value;
  made.replaceChildren(...options.map(([key, text]) => {
    const option = element("option", "", text);
    option.value = key;
    return option;
  }));
  made.value = value;
}

function button(text, act) {
  const made = element("button", "aegis-button", text);
  made.type = "button";
  made.onclick = act;
  return made;
}

const named = (model) => model.get("options").named.map(([key]) => key);
const known = (model) => ["period", "start", "end", ...Object.keys(LABELS), ...named(model)];

const inVoila = () => Boolean(document.body.dataset.voila);

function fromAddress(model) {
  return [...new URLSearchParams(location.search)].filter(([key]) => known(model).includes(key));
}

function toAddress(model, chosen) {
  const params = new URLSearchParams(location.search);
  for (const key of known(model)) params.delete(key);
  for (const [key, value] of Object.entries(chosen)) params.set(key, value);
  const query = params.toString();
  history.replaceState(null, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`);
}

function save(name, blob) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// The page as a picture: panels, their headings and charts, the numbers and the state.
async function picture(board) {
  const plotly = await window.aegisPlotly;
  const origin = board.getBoundingClientRect();
  const scale = 2;
  const canvas = element("canvas");
  canvas.width = origin.width * scale;
  canvas.height = origin.height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const css = getComputedStyle(document.body);
  const colour = (name) => css.getPropertyValue(name).trim();
  pen.fillStyle = colour("--aegis-page");
  pen.fillRect(0, 0, origin.width, origin.height);
  const at = (node) => {
    const { left, top, width, height } = node.getBoundingClientRect();
    return [left - origin.left, top - origin.top, width, height];
  };
  for (const node of board.querySelectorAll(".aegis-panel, .aegis-tile")) {
    pen.fillStyle = colour("--aegis-panel");
    pen.strokeStyle = colour("--aegis-border");
    pen.beginPath();
    pen.roundRect(...at(node), 10);
    pen.fill();
    pen.stroke();
  }
  const texts = ".aegis-brand h1, .aegis-badge, .aegis-origin, .aegis-chart h2, .aegis-tile > div, .aegis-table h2, .aegis-table th, .aegis-table td";
  for (const node of board.querySelectorAll(texts)) {
    const style = getComputedStyle(node);
    const [x, y, width, height] = at(node);
    const scroll = node.closest(".aegis-scroll");
    if (!width || (scroll && y + height > at(scroll)[1] + at(scroll)[3])) continue;
    pen.save();
    pen.beginPath();
    pen.rect(x, y, width, height);
    pen.clip();
    pen.fillStyle = style.color;
    pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    pen.textBaseline = "middle";
    const left = parseFloat(style.paddingLeft) || 0;
    pen.fillText(node.textContent, x + left, y + height / 2);
    pen.restore();
  }
  for (const plot of board.querySelectorAll(".js-plotly-plot")) {
    const [x, y, width, height] = at(plot);
    if (!width) continue;
    const cloud = plot.querySelector(".aegis-cloud");
    if (cloud) pen.drawImage(cloud, x, y, width, height);
    const image = new Image();
    image.src = await plotly.toImage(plot, { format: "png", width, height, scale });
    await image.decode();
    pen.drawImage(image, x, y, width, height);
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// Whether the kernel has answered the address: it may before there is anything to show that by.
let heard = false;

function isHeard(model) {
  const chosen = model.get("chosen");
  return heard || fromAddress(model).every(([key, value]) => String(chosen[key]) === value);
}

export default {
  initialize({ model }) {
    if (model.get("part") !== "filters" || !inVoila()) return undefined;
    const asked = fromAddress(model);
    model.on("change:chosen", () => { heard = true; });
    if (asked.length) model.send({ choose: Object.fromEntries(asked) });
    return undefined;
  },

  render({ model, el }) {
    const part = model.get("part");
    el.classList.add("aegis-controls");
    const options = model.get("options");
    const all = (values) => [["", "all"], ...values.map((of) => (Array.isArray(of) ? of : [of, of]))];
    const axes = options.axes.map((axis) => [axis, AXIS_NAMES[axis] ?? axis]);
    const inputs = {};
    const change = (part) => model.send({ change: part });

    function field(name, input) {
      inputs[name] = input;
      input.addEventListener("change", () => change({ [name]: input.value }));
      el.append(labelled(name, input));
    }

    function typedIn(name, type) {
      const input = element("input");
      input.type = type;
      if (type === "number") Object.assign(input, { min: 0, step: "any" });
      else input.maxLength = 200;
      field(name, input);
    }

    let periods = null;
    let only = null; // of what, and of which name
    if (part === "axes") {
      field("x", select(axes));
      field("y", select(axes));
      field("z", select([["", "none (2-D)"], ...axes]));
    } else {
      const group = element("div", "aegis-periods");
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", "Period");
      periods = new Map(options.period.map(([key, text]) => [
        key, button(text, () => change({ period: key, start: 0, end: 0 })),
      ]));
      group.append(...periods.values());
      el.append(group);
      field("decision", select(all(options.decision)));
      field("factor", select(all(options.factor)));
      field("category", select(all(model.get("categories"))));
      typedIn("min_amount", "number");
      typedIn("max_amount", "number");
      const kind = select(options.named);
      const name = Object.assign(element("input"), { type: "search", maxLength: 200 });
      name.setAttribute("aria-label", "Its name");
      const other = Object.fromEntries(named(model).map((key) => [key, ""]));
      for (const input of [kind, name]) {
        input.addEventListener("change", () => change({ ...other, [kind.value]: name.value }));
      }
      const pair = labelled("named", kind);
      const both = element("span", "aegis-pair");
      both.append(kind, name);
      pair.append(both);
      el.append(pair);
      only = { kind, name };
      field("bars", select(options.bars.map((width) => [width, width])));
      const acts = element("div", "aegis-acts");
      acts.append(
        button("Reset", () => model.send({ choose: {} })),
        button("CSV", () => model.send({ need: "csv" })),
        button("PNG", async () => {
          const blob = await picture(el.closest(".aegis-board") ?? document.body);
          save(`aegis-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}.png`, blob);
        }),
      );
      el.append(acts);
    }

    function show() {
      const chosen = model.get("chosen");
      const defaults = { period: "today", x: "hour", y: "amount", bars: "auto" };
      for (const [name, input] of Object.entries(inputs)) {
        const value = String(chosen[name] ?? defaults[name] ?? "");
        // A choice that is not among the newest categories is a choice all the same.
        if (input.tagName === "SELECT" && ![...input.options].some((o) => o.value === value)) {
          input.append(Object.assign(element("option", "", value), { value }));
        }
        if (document.activeElement !== input || input.tagName === "SELECT") input.value = value;
      }
      if (only) {
        const key = named(model).find((of) => chosen[of]) ?? (only.kind.value || named(model)[0]);
        only.kind.value = key;
        if (document.activeElement !== only.name) only.name.value = chosen[key] ?? "";
      }
      for (const [key, made] of periods ?? []) {
        made.setAttribute("aria-pressed", String(key === (chosen.period ?? "today")));
      }
      if (part === "filters" && inVoila()) toAddress(model, chosen);
    }

    function listCategories() {
      if (inputs.category) fill(inputs.category, all(model.get("categories")));
      show();
    }

    model.on("change:chosen", show);
    model.on("change:categories", listCategories);
    model.on("msg:custom", (message, buffers) => {
      if (message.file) save(message.file, new Blob(buffers, { type: "text/csv" }));
    });
    // Until the kernel has heard the address, it stays as it is.
    if (part === "axes" || isHeard(model) || !inVoila()) show();
  },
};
