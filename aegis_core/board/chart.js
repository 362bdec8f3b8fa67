// One plotly.js chart. The kernel sends traces with binary columns and colours as CSS variables.

function loadScript(url) {
  return new Promise((resolve, reject) => {
    // JupyterLab may have an AMD loader, which would swallow plotly.js.
    const amd = window.define;
    window.define = undefined;
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => { window.define = amd; resolve(); };
    script.onerror = () => { window.define = amd; reject(new Error("plotly.js did not load")); };
    document.head.append(script);
  });
}

async function fromKernel(model) {
  const zipped = await new Promise((resolve) => {
    const heard = (message, buffers) => {
      if (!message.plotly) return;
      model.off("msg:custom", heard);
      resolve(buffers[0]);
    };
    model.on("msg:custom", heard);
    model.send({ need: "plotly" });
  });
  const plain = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const source = new Blob([await new Response(plain).arrayBuffer()], { type: "text/javascript" });
  return URL.createObjectURL(source);
}

// Once a page: from the Voilà template's static folder, or in JupyterLab, which has no such
// folder, from the kernel. Never from a network.
function loadPlotly(model) {
  window.aegisPlotly ??= (async () => {
    await loadScript(window.AEGIS_PLOTLY_URL ?? (await fromKernel(model)));
    return window.Plotly;
  })();
  return window.aegisPlotly;
}

const COLUMN_TYPES = { f4: Float32Array, f8: Float64Array };

function cssColour(name) {
  return getComputedStyle(document.body).getPropertyValue(name).trim();
}

function typed(type, view) {
  const { buffer, byteOffset, byteLength } = view;
  return new COLUMN_TYPES[type](buffer.slice(byteOffset, byteOffset + byteLength));
}

// Colour names to the theme's colours: a change of theme asks no kernel.
function coloured(given) {
  if (typeof given === "string") return given.startsWith("--aegis-") ? cssColour(given) : given;
  if (ArrayBuffer.isView(given)) return given;
  if (Array.isArray(given)) return given.map(coloured);
  if (given === null || typeof given !== "object") return given;
  return Object.fromEntries(Object.entries(given).map(([key, value]) => [key, coloured(value)]));
}

function unpacked(trace) {
  const columns = Object.entries(trace).map(([key, value]) => [
    key, value?.column ? typed(value.type, value.column) : value,
  ]);
  return Object.fromEntries(columns);
}

// The newest `most` of two columns put together, in the type of the first.
function joined(old, added, most) {
  if (!ArrayBuffer.isView(old)) return [...(old ?? []), ...added].slice(-most || Infinity);
  const both = new old.constructor(old.length + added.length);
  both.set(old);
  both.set(added, old.length);
  return both.slice(Math.max(0, both.length - most));
}

// Remote desktops often have no WebGL; SVG is slower, and shows the same.
let webgl = null;
function drawable(traces) {
  webgl ??= Boolean(document.createElement("canvas").getContext("webgl"));
  return webgl ? traces : traces.map((t) => (t.type === "scattergl" ? { ...t, type: "scatter" } : t));
}

function merge(base, extra) {
  const merged = { ...base };
  for (const [key, value] of Object.entries(extra)) {
    const nested = value && typeof value === "object" && !Array.isArray(value);
    merged[key] = nested ? merge(merged[key] ?? {}, value) : value;
  }
  return merged;
}

const AXIS = {
  automargin: true,
  gridcolor: "--aegis-grid",
  linecolor: "--aegis-border",
  zerolinecolor: "--aegis-grid",
  tickfont: { color: "--aegis-muted", size: 11 },
  title: { font: { color: "--aegis-muted", size: 11 }, standoff: 6 },
};

const LAYOUT = {
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: "system-ui, sans-serif", color: "--aegis-text", size: 12 },
  margin: { l: 44, r: 10, t: 6, b: 30 },
  hovermode: "closest",
  hoverlabel: {
    bgcolor: "--aegis-field",
    bordercolor: "--aegis-border",
    font: { color: "--aegis-text" },
  },
  legend: {
    orientation: "h",
    x: 0,
    y: 1.02,
    yanchor: "bottom",
    font: { color: "--aegis-muted", size: 11 },
    bgcolor: "rgba(0,0,0,0)",
  },
};

// plotly.js shows a button that uploads the chart to a cloud service unless told otherwise.
const CONFIG = {
  displaylogo: false,
  showSendToCloud: false,
  plotlyServerURL: "",
  topojsonURL: "",
  modeBarButtonsToRemove: ["autoScale2d", "toImage"],
};

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
}

export default {
  async render({ model, el }) {
    el.classList.add("aegis-chart");
    const heading = element("h2", "", model.get("title"));
    const note = element("small");
    const release = element("button", "aegis-button aegis-small", "Let go");
    release.type = "button";
    release.hidden = true;
    heading.append(" ", note);
    const top = element("div", "aegis-heading");
    top.append(heading, release);
    const frame = element("div", "aegis-frame");
    const box = element("div");
    box.setAttribute("role", "figure");
    box.setAttribute("aria-label", model.get("label"));
    frame.append(box);
    el.append(top, frame);

    let plotly = null;
    let busy = false;
    let waiting = false;
    let revision = 0;

    // What the page has of the figure; messages change it in place, for all views of the model.
    function shown() {
      const figure = model.get("figure");
      if (!figure.traces) return null;
      figure.live ??= figure.traces.map(unpacked);
      figure.tick ??= model.get("tick");
      return figure;
    }

    function themed(layout) {
      const flat = Object.fromEntries(
        Object.entries(layout).filter(([key]) => /^[xy]axis/.test(key)).map(([key]) => [key, AXIS]),
      );
      const scene = layout.scene ? { scene: { xaxis: AXIS, yaxis: AXIS, zaxis: AXIS } } : {};
      return coloured(merge(merge(LAYOUT, { ...flat, ...scene }), layout));
    }

    // A drawing that takes longer than a second must not queue up: only the newest is drawn.
    async function draw() {
      waiting = true;
      // Voilà shows the page only when it is complete, and a hidden box has no size to draw for.
      if (busy || !box.clientWidth) return;
      busy = true;
      try {
        plotly ??= await loadPlotly(model);
        while (waiting) {
          waiting = false;
          const figure = shown();
          if (!figure) continue;
          const traces = drawable(figure.live.map(coloured));
          const picks = figure.layout.dragmode === "lasso" || figure.layout.scene;
          const layout = { ...themed(figure.layout), selections: [], datarevision: ++revision };
          const first = !box.data;
          await plotly.react(box, traces, layout, { ...CONFIG, displayModeBar: picks ? "hover" : false });
          if (first) listen();
        }
      } finally {
        busy = false;
      }
    }

    function listen() {
      const lassoed = () => shown()?.layout.dragmode === "lasso";
      const let_go = () => {
        release.hidden = true;
        model.send({ selected: null });
      };
      box.on("plotly_selected", (event) => {
        if (lassoed()) {
          const seqs = (event?.points ?? []).map((point) => point.customdata);
          release.hidden = !seqs.length;
          model.send({ selected: seqs.length ? seqs : null });
        } else if (event?.range) {
          const times = event.range.x.map((x) => Date.parse(`${String(x).replace(" ", "T")}Z`));
          model.send({ range: times });
          plotly.relayout(box, { selections: [] });
        }
      });
      box.on("plotly_deselect", () => { if (lassoed()) let_go(); });
      release.onclick = () => {
        let_go();
        plotly.restyle(box, { selectedpoints: [null] });
        plotly.relayout(box, { selections: [] });
      };
    }

    function added(figure, columns, kept) {
      const indices = columns.map((_, i) => i);
      const names = Object.keys(columns[0]).filter((name) => columns.every((c) => name in c));
      const texts = Object.keys(columns.at(-1)).filter((name) => !names.includes(name));
      columns.forEach((column, i) => {
        for (const [name, values] of Object.entries(column)) {
          figure.live[i][name] = joined(figure.live[i][name], values, kept[i]);
        }
      });
      if (busy || !box.data || !kept.every(Boolean)) return draw();
      const of = (name, which) => which.map((i) => columns[i][name]);
      const most = (name, which) => ({ [name]: which.map((i) => kept[i]) });
      const having = indices.filter((i) => texts.some((name) => name in columns[i]));
      const update = Object.fromEntries(names.map((name) => [name, of(name, indices)]));
      const limits = Object.assign({}, ...names.map((name) => most(name, indices)));
      for (const name of texts) {
        for (const i of having) box.data[i][name] = figure.live[i][name];
      }
      return plotly.extendTraces(box, update, indices, limits);
    }

    function heard(message, buffers) {
      if (!message.tick) return;
      const figure = shown();
      if (!figure || message.tick > figure.tick + 1) {
        model.send({ need: "all" });
        return;
      }
      const columns = (message.columns ?? message.added).map((trace) => Object.fromEntries(
        Object.entries(trace).map(([name, value]) => [
          // packed columns are [type, number of the buffer], texts are texts
          name, COLUMN_TYPES[value?.[0]] && value.length === 2 ? typed(value[0], buffers[value[1]]) : value,
        ]),
      ));
      const news = message.tick === figure.tick + 1;
      figure.tick = message.tick;
      if (message.added && news) {
        added(figure, columns, message.kept);
        return;
      }
      if (news) columns.forEach((column, i) => Object.assign(figure.live[i], column));
      draw();
    }

    const showNote = () => { note.textContent = model.get("note"); };
    const resized = new ResizeObserver(() => {
      if (!box.data) draw();
      else if (box.clientWidth) plotly.Plots.resize(box);
    });
    const replaced = () => { release.hidden = true; draw(); };
    resized.observe(frame);
    model.on("change:figure", replaced);
    model.on("change:note", showNote);
    model.on("msg:custom", heard);
    window.addEventListener("aegis-theme", draw);
    showNote();
    draw();
    return () => {
      resized.disconnect();
      window.removeEventListener("aegis-theme", draw);
      if (plotly) plotly.purge(box);
    };
  },
};
