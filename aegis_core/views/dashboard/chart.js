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

// A page's first drawings take turns, and none begins before the numbers are painted: plotly.js and
// the charts hold the page up for seconds in which nothing else could be seen or clicked. Nor does
// one begin before the kernel has answered, if it does soon: one heated long ago has old numbers
// until then, and each chart would be drawn twice.
const MOST_PATIENCE_MS = 1000;

function firstTurn(drawing) {
  const frame = () => new Promise((resolve) => { requestAnimationFrame(() => resolve()); });
  const answered = () => new Promise((resolve) => {
    if (document.body.dataset.aegisHeard) resolve();
    window.addEventListener("aegis-heard", () => resolve(), { once: true });
    setTimeout(resolve, MOST_PATIENCE_MS);
  });
  window.aegisTurn ??= frame().then(frame).then(answered).then(frame).then(frame);
  const turn = window.aegisTurn.then(drawing);
  window.aegisTurn = turn.catch(() => null).then(frame);
  return turn;
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
  if (!ArrayBuffer.isView(old)) return most ? [...(old ?? []), ...added].slice(-most) : [];
  const both = new old.constructor(old.length + added.length);
  both.set(old);
  both.set(added, old.length);
  return both.slice(Math.max(0, both.length - most));
}

// Thousands of points of ordinary traffic are drawn on a canvas under the chart: plotly.js's own way
// to draw many compiles code at run time, which the page's policy forbids, and takes longer. The
// first trace of a "scattergl" figure is that cloud; plotly.js gets its extent and its legend.
function isCloud(figure) {
  return figure.traces[0]?.type === "scattergl";
}

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [];
}

function withoutCloud(traces) {
  const [cloud, ...alerts] = traces.map((trace) => ({ ...trace, type: "scatter" }));
  const marker = { color: "rgba(0,0,0,0)", size: 1 };
  const corners = { type: "scatter", mode: "markers", marker, hoverinfo: "skip", showlegend: false };
  return [
    { ...cloud, x: [null], y: [null], customdata: [null] },
    ...alerts,
    { ...corners, x: extent(cloud.x), y: extent(cloud.y) },
  ];
}

function makeCloud(box) {
  const canvas = document.createElement("canvas");
  canvas.className = "aegis-cloud";
  const tip = document.createElement("div");
  tip.className = "aegis-tip";
  tip.hidden = true;
  let cloud = null;
  let chosen = null; // seqs, or null: all
  let places = { x: [], y: [] };

  function paint() {
    const layout = box._fullLayout;
    const host = box.querySelector(".svg-container");
    if (!cloud || !layout?.xaxis || !host) return;
    if (canvas.parentNode !== host) host.prepend(canvas);
    const scale = window.devicePixelRatio || 1;
    canvas.width = layout.width * scale;
    canvas.height = layout.height * scale;
    const { xaxis, yaxis } = layout;
    const n = cloud.x.length;
    places = { x: new Float32Array(n), y: new Float32Array(n) };
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.beginPath();
    pen.rect(xaxis._offset, yaxis._offset, xaxis._length, yaxis._length);
    pen.clip();
    pen.fillStyle = cloud.marker.color;
    if (box._fullData[0]?.visible !== true) return;
    const radius = cloud.marker.size / 2;
    for (let i = 0; i < n; i += 1) {
      const x = xaxis._offset + xaxis.d2p(cloud.x[i]);
      const y = yaxis._offset + yaxis.d2p(cloud.y[i]);
      places.x[i] = x;
      places.y[i] = y;
      if (!Number.isFinite(x + y)) continue;
      pen.globalAlpha = !chosen || chosen.has(cloud.customdata[i]) ? 1 : 0.15;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 6.3);
      pen.fill();
    }
  }

  // The cloud's points inside of a box or lasso, by their customdata.
  function inside(event) {
    const { xaxis, yaxis } = box._fullLayout;
    const { range, lassoPoints: lasso } = event;
    const xs = lasso ? lasso.x : [range.x[0], range.x[1], range.x[1], range.x[0]];
    const ys = lasso ? lasso.y : [range.y[0], range.y[0], range.y[1], range.y[1]];
    const corners = xs.map((x, i) => [xaxis._offset + xaxis.d2p(x), yaxis._offset + yaxis.d2p(ys[i])]);
    const found = [];
    for (let i = 0; i < places.x.length; i += 1) {
      let within = false;
      for (let j = 0, k = corners.length - 1; j < corners.length; k = j, j += 1) {
        const [x1, y1] = corners[j];
        const [x2, y2] = corners[k];
        const y = places.y[i];
        if ((y1 > y) !== (y2 > y) && places.x[i] < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) within = !within;
      }
      if (within) found.push(cloud.customdata[i]);
    }
    return found;
  }

  box.addEventListener("mousemove", (event) => {
    tip.hidden = true;
    if (!cloud || event.buttons || box.querySelector(".hoverlayer > *")) return;
    const { left, top } = box.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    let nearest = -1;
    let least = 64;
    for (let i = 0; i < places.x.length; i += 1) {
      const distance = (places.x[i] - x) ** 2 + (places.y[i] - y) ** 2;
      if (distance < least) [nearest, least] = [i, distance];
    }
    if (nearest < 0) return;
    const { xaxis, yaxis } = box._fullLayout;
    const number = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 2 });
    tip.replaceChildren(...[[xaxis, cloud.x], [yaxis, cloud.y]].map(([axis, values]) => {
      const line = document.createElement("div");
      line.textContent = `${axis.title.text} ${number.format(values[nearest])}`;
      return line;
    }));
    tip.hidden = false;
    const fits = x + 12 + tip.offsetWidth < box.clientWidth;
    tip.style.left = `${fits ? x + 12 : x - 12 - tip.offsetWidth}px`;
    tip.style.top = `${Math.max(0, y - 34)}px`;
  });
  box.addEventListener("mouseleave", () => { tip.hidden = true; });
  box.after(tip);

  return {
    inside,
    paint,
    use(trace) {
      cloud = trace;
      if (!trace) canvas.remove();
    },
    choose(seqs) {
      chosen = seqs?.length ? new Set(seqs) : null;
      paint();
    },
  };
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
  tickangle: 0,
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
    if (model.get("part")) top.append(fromButton(model.get("part"), model.get("title")));
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
    const cloud = makeCloud(box);

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
        if (plotly) await drawWaiting();
        else await firstTurn(async () => {
          plotly = await loadPlotly(model);
          await drawWaiting();
        });
      } finally {
        busy = false;
      }
    }

    async function drawWaiting() {
      while (waiting) {
        waiting = false;
        const figure = shown();
        if (!figure) continue;
        const all = figure.live.map(coloured);
        const traces = isCloud(figure) ? withoutCloud(all) : all;
        cloud.use(isCloud(figure) ? all[0] : null);
        const picks = figure.layout.dragmode === "lasso" || figure.layout.scene;
        const layout = { ...themed(figure.layout), selections: [], datarevision: ++revision };
        const first = !box.data;
        await plotly.react(box, traces, layout, { ...CONFIG, displayModeBar: picks ? "hover" : false });
        if (first) listen();
        cloud.paint();
      }
    }

    function listen() {
      const lassoed = () => shown()?.layout.dragmode === "lasso";
      const letGo = () => {
        release.hidden = true;
        cloud.choose(null);
        model.send({ selected: null });
      };
      box.on("plotly_afterplot", cloud.paint);
      box.on("plotly_relayouting", cloud.paint);
      box.on("plotly_selected", (event) => {
        if (lassoed()) {
          if (!event || !(event.range || event.lassoPoints)) return;
          const alerts = event.points.map((point) => point.customdata).filter((seq) => seq != null);
          const seqs = [...alerts, ...cloud.inside(event)];
          release.hidden = !seqs.length;
          cloud.choose(seqs);
          model.send({ selected: seqs.length ? seqs : null });
        } else if (event?.range) {
          const times = event.range.x.map((x) => Date.parse(`${String(x).replace(" ", "T")}Z`));
          model.send({ range: times });
          plotly.relayout(box, { selections: [] });
        }
      });
      box.on("plotly_deselect", () => { if (lassoed()) letGo(); });
      release.onclick = () => {
        letGo();
        plotly.restyle(box, { selectedpoints: [null] });
        plotly.relayout(box, { selections: [] });
      };
    }

    function added(figure, columns, kept) {
      const before = isCloud(figure) ? ["x", "y"].map((axis) => extent(figure.live[0][axis])) : [];
      const alerts = figure.live.slice(1).map((trace) => trace.x.length);
      columns.forEach((column, i) => {
        for (const [name, values] of Object.entries(column)) {
          figure.live[i][name] = joined(figure.live[i][name], values, kept[i]);
        }
      });
      const quiet = columns.slice(1).every((column, i) => !column.x.length && kept[i + 1] === alerts[i]);
      const [x, y] = ["x", "y"].map((axis) => extent(figure.live[0][axis]));
      const fits = before.length && x[0] >= before[0][0] && x[1] <= before[0][1] && y[0] >= before[1][0] && y[1] <= before[1][1];
      if (busy || !box.data || !isCloud(figure) || !quiet || !fits) return draw();
      cloud.use(coloured(figure.live[0]));
      return cloud.paint();
    }

    // How long an update took in this page, for who measures.
    async function heard(message, buffers) {
      const began = performance.now();
      await taken(message, buffers);
      if (message.tick) frame.dataset.ms = (performance.now() - began).toFixed(1);
    }

    function taken(message, buffers) {
      if (!message.tick) return undefined;
      const figure = shown();
      if (!figure || message.tick > figure.tick + 1) {
        model.send({ need: "all" });
        return undefined;
      }
      const columns = (message.columns ?? message.added).map((trace) => Object.fromEntries(
        Object.entries(trace).map(([name, value]) => [
          // packed columns are [type, number of the buffer], texts are texts
          name, COLUMN_TYPES[value?.[0]] && value.length === 2 ? typed(value[0], buffers[value[1]]) : value,
        ]),
      ));
      const news = message.tick === figure.tick + 1;
      figure.tick = message.tick;
      if (message.added && news) return added(figure, columns, message.kept);
      if (news) columns.forEach((column, i) => Object.assign(figure.live[i], column));
      return draw();
    }

    const showNote = () => { note.textContent = model.get("note"); };
    const resized = new ResizeObserver(() => {
      if (!box.data) draw();
      else if (box.clientWidth) plotly.Plots.resize(box);
    });
    const replaced = () => {
      release.hidden = true;
      cloud.choose(null);
      draw();
    };
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
