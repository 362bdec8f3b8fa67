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

// Columns to typed arrays, colour names to the theme's colours: a change of theme asks no kernel.
function resolve(given) {
  if (typeof given === "string") return given.startsWith("--aegis-") ? cssColour(given) : given;
  if (Array.isArray(given)) return given.map(resolve);
  if (given === null || typeof given !== "object") return given;
  if (given.column) {
    const { buffer, byteOffset, byteLength } = given.column;
    return new COLUMN_TYPES[given.type](buffer.slice(byteOffset, byteOffset + byteLength));
  }
  return Object.fromEntries(Object.entries(given).map(([key, value]) => [key, resolve(value)]));
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
  margin: { l: 48, r: 12, t: 8, b: 36 },
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
  displayModeBar: "hover",
  modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d"],
};

export default {
  async render({ model, el }) {
    el.classList.add("aegis-chart");
    const box = document.createElement("div");
    box.setAttribute("role", "figure");
    box.setAttribute("aria-label", model.get("label"));
    el.append(box);

    let plotly = null;
    let busy = false;
    let waiting = false;

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
          const { traces, layout } = model.get("figure");
          if (!traces) continue;
          const flat = Object.fromEntries(
            Object.entries(layout).filter(([key]) => /^[xy]axis/.test(key)).map(([key]) => [key, AXIS]),
          );
          const scene = layout.scene ? { scene: { xaxis: AXIS, yaxis: AXIS, zaxis: AXIS } } : {};
          const themed = merge(merge(LAYOUT, { ...flat, ...scene }), layout);
          await plotly.react(box, drawable(resolve(traces)), resolve(themed), CONFIG);
        }
      } finally {
        busy = false;
      }
    }

    const resized = new ResizeObserver(() => {
      if (!box.data) draw();
      else if (box.clientWidth) plotly.Plots.resize(box);
    });
    resized.observe(el);
    model.on("change:figure", draw);
    window.addEventListener("aegis-theme", draw);
    draw();
    return () => {
      resized.disconnect();
      window.removeEventListener("aegis-theme", draw);
      if (plotly) plotly.purge(box);
    };
  },
};
