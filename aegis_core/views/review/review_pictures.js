// The pictures of a case, drawn as SVG: no library, and colours are those of the stylesheet.
// Each has a role, a sentence that says what it shows, and nothing in it comes from markup.

const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes = {}, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text != null) made.textContent = text;
  return made;
}

function picture(width, height, label, className) {
  const made = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  made.classList.add("ar-picture", className);
  return made;
}

const number = (value, digits = 0) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const shortNumber = (value) =>
  value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const day = (ms) => new Date(ms).toISOString().slice(0, 10);
const minute = (ms) => new Date(ms).toISOString().slice(0, 16).replace("T", " ");
const money = (amount, currency, digits = 2) =>
  `${currency ? clipped(currency, 8) + " " : ""}${number(amount, digits)}`;
// Text from outside: shortened, and marks that would turn the writing round are made visible.
const clipped = (text, most) => {
  const told = String(text).slice(0, most + 1).replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  return told.length > most ? told.slice(0, most - 1) + "…" : told;
};

const MARKS = {
  aside: { shape: "cross", size: 2.6, name: "no payment: refund, declined, check" },
  paid: { shape: "circle", size: 2.6, name: "paid" },
  alert: { shape: "square", size: 4, name: "other alert" },
  fraud: { shape: "cross", size: 5, name: "confirmed fraud" },
  case: { shape: "square", size: 4.5, name: "this case" },
  this: { shape: "diamond", size: 7.5, name: "this transaction" },
};

function mark(kind, x, y) {
  const { shape, size } = MARKS[kind];
  const s = size;
  const paths = {
    circle: `M${x - s} ${y}a${s} ${s} 0 1 0 ${2 * s} 0a${s} ${s} 0 1 0 ${-2 * s} 0`,
    square: `M${x - s} ${y - s}h${2 * s}v${2 * s}h${-2 * s}z`,
    diamond: `M${x} ${y - s}L${x + s} ${y}L${x} ${y + s}L${x - s} ${y}z`,
    cross: `M${x - s} ${y - s}L${x + s} ${y + s}M${x - s} ${y + s}L${x + s} ${y - s}`,
  };
  return drawn("path", { d: paths[shape], class: `ar-mark ar-${kind}` });
}

function legend(kinds) {
  const made = document.createElement("p");
  made.className = "ar-legend";
  for (const kind of kinds) {
    const icon = drawn("svg", { viewBox: "0 0 18 18", "aria-hidden": "true" });
    icon.append(mark(kind, 9, 9));
    const item = document.createElement("span");
    item.append(icon, MARKS[kind].name);
    made.append(item);
  }
  return made;
}

// Amounts over time on a logarithmic scale, with the band in which the customer usually paid.
function amountsPicture(page, narrow) {
  const { ms, amount, kind } = page.history;
  const width = narrow ? 350 : 640, height = 230, left = 52, right = 10, top = 10, bottom = 26;
  const band = page.band;
  const values = band ? [...amount, band.low, band.high] : amount;
  const least = Math.log10(Math.max(Math.min(...values), 0.01));
  const most = Math.log10(Math.max(...values, 0.01));
  const room = Math.max(0.05, (1 - (most - least)) / 2); // a decade at least
  const low = least - room, high = most + room;
  const first = ms.reduce((a, b) => Math.min(a, b)), last = ms.reduce((a, b) => Math.max(a, b));
  const span = Math.max(last - first, 1);
  const x = (t) => left + ((t - first) / span) * (width - left - right);
  const y = (v) =>
    height - bottom - ((Math.log10(Math.max(v, 0.01)) - low) / (high - low)) * (height - top - bottom);
  const usual = band
    ? `Usually between ${number(band.low, page.digits)} and ${number(band.high, page.digits)}, ` +
      `in the middle ${number(band.usual, page.digits)}.`
    : "Too few payments before this case to say what is usual.";
  const made = picture(width, height,
    `Amounts of ${ms.length} entries from ${day(first)} to ${day(last)}, this one ` +
    `${money(page.amount, page.currency, page.digits)}. ${usual}`, "ar-amounts");
  if (band) {
    made.append(drawn("rect", {
      class: "ar-band", x: left, width: width - left - right,
      y: y(band.high), height: Math.max(y(band.low) - y(band.high), 1),
    }), drawn("line", {
      class: "ar-usual", x1: left, x2: width - right, y1: y(band.usual), y2: y(band.usual),
    }));
  }
  const steps = high - low > 2.2 ? [1] : [1, 2, 5];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    for (const step of steps) {
      const value = step * 10 ** power;
      if (Math.log10(value) < low || Math.log10(value) > high) continue;
      made.append(
        drawn("line", { class: "ar-grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        drawn("text", { class: "ar-tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" },
          shortNumber(value)),
      );
    }
  }
  const ticks = narrow ? 3 : 5;
  for (let i = 0; i < ticks; i++) {
    const at = first + (span * i) / (ticks - 1);
    made.append(drawn("text", {
      class: "ar-tick", x: x(at), y: height - 8,
      "text-anchor": i === 0 ? "start" : i === ticks - 1 ? "end" : "middle",
    }, span < 2 * 86400000 ? minute(at).slice(11) : day(at).slice(5)));
  }
  const order = Object.keys(MARKS);
  const places = ms.map((_, i) => i).sort((a, b) => order.indexOf(kind[a]) - order.indexOf(kind[b]));
  for (const i of places) made.append(mark(kind[i], x(ms[i]), y(amount[i])));
  return [made, legend(order.filter((k) => kind.includes(k))), said(usual)];
}

// Hours of the day as a clock: how often the customer paid in each, and this one as a hand.
function hoursPicture(page) {
  const size = 230, middle = size / 2, inner = 26, outer = 84;
  const most = Math.max(...page.hours, 1);
  const at = new Date(page.local_ms);
  const hour = at.getUTCHours() + at.getUTCMinutes() / 60;
  const count = page.hours[at.getUTCHours()];
  const sentence = page.local_ms === null
    ? "It came with a date and no hour."
    : `${minute(page.local_ms).slice(11)} ${page.clock}: in this hour the customer paid ` +
      `${number(count)} of ${number(page.n_timed)} times before.`;
  const made = picture(size, size, `Hours of the day. ${sentence}`, "ar-hours");
  const point = (h, r) => {
    const angle = (h / 24) * 2 * Math.PI - Math.PI / 2;
    return [middle + r * Math.cos(angle), middle + r * Math.sin(angle)];
  };
  for (const r of [inner, (inner + outer) / 2, outer]) {
    made.append(drawn("circle", { class: "ar-grid", cx: middle, cy: middle, r, fill: "none" }));
  }
  page.hours.forEach((n, h) => {
    if (!n) return;
    const r = inner + (outer - inner) * Math.sqrt(n / most);
    const [a, b, c, d] = [[h, inner], [h, r], [h + 1, r], [h + 1, inner]].map(([i, j]) => point(i, j));
    made.append(drawn("path", {
      class: "ar-hour",
      d: `M${a}L${b}A${r} ${r} 0 0 1 ${c}L${d}A${inner} ${inner} 0 0 0 ${a}z`,
    }));
  });
  for (const h of [0, 6, 12, 18]) {
    const [tx, ty] = point(h, outer + 15);
    made.append(drawn("text", { class: "ar-tick", x: tx, y: ty + 4, "text-anchor": "middle" },
      String(h).padStart(2, "0")));
  }
  const [x1, y1] = point(hour, inner - 8), [x2, y2] = point(hour, outer);
  if (page.local_ms !== null) {
    made.append(drawn("line", { class: "ar-hand", x1, y1, x2, y2 }), mark("this", x2, y2));
  }
  return [made, said(sentence)];
}

// Coasts and borders as far as they touch the picture.
function coast(outlines, x, y, width, height) {
  const parts = [];
  for (const line of outlines) {
    const points = [];
    let near = false;
    for (let i = 0; i < line.length; i += 2) {
      const [px, py] = [x(line[i]), y(line[i + 1])];
      near ||= px > -width && px < 2 * width && py > -height && py < 2 * height;
      points.push(`${px.toFixed(1)} ${py.toFixed(1)}`);
    }
    if (near) parts.push("M" + points.join("L"));
  }
  return drawn("path", { class: "ar-coast", d: parts.join("") });
}

// Places on the sphere laid flat, cut to what is to be seen, and the way from the last one.
function placesPicture(page, outlines, narrow) {
  const { usual, path, distance_km } = page.places;
  const all = [...usual.map((p) => [p.lat, p.lon]), ...path];
  if (!all.length) return [said("None of this customer's payments has a place.")];
  const way = path.length > 1 && distance_km != null
    ? `${number(distance_km)} km from the place before.`
    : path.length ? "The first payment with a place." : "This payment has no place.";
  const sentence = `${number(usual.length)} usual places. ${way}`;
  const width = narrow ? 350 : 420, height = 230;
  const lats = all.map((p) => p[0]), lons = all.map((p) => p[1]);
  const midLat = (Math.min(...lats) + Math.max(...lats)) / 2;
  const midLon = (Math.min(...lons) + Math.max(...lons)) / 2;
  const squeeze = Math.max(Math.cos((midLat * Math.PI) / 180), 0.2);
  const degrees = Math.max(
    ((Math.max(...lons) - Math.min(...lons)) * squeeze * height) / width,
    Math.max(...lats) - Math.min(...lats), 0.6,
  ) * 1.3;
  const scale = height / degrees;
  const x = (lon) => width / 2 + (lon - midLon) * squeeze * scale;
  const y = (lat) => height / 2 - (lat - midLat) * scale;
  const made = picture(width, height, `Places. ${sentence}`, "ar-places");
  if (degrees > 2) made.append(coast(outlines, x, y, width, height)); // they are not finer than that
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60].find((s) => degrees / s <= 5) ?? 90;
  const digits = step < 1 ? 1 : 0;
  for (let lat = Math.ceil((midLat - degrees / 2) / step) * step; y(lat) > 0; lat += step) {
    if (lat < -90.01 || lat > 90.01) continue;
    made.append(
      drawn("line", { class: "ar-grid", x1: 0, x2: width, y1: y(lat), y2: y(lat) }),
      drawn("text", { class: "ar-tick", x: 4, y: y(lat) - 3 },
        `${number(Math.abs(lat), digits)}° ${lat < 0 ? "S" : "N"}`),
    );
  }
  const across = (width / scale / squeeze) / 2;
  const stepLon = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60].find((s) => (2 * across) / s <= 6) ?? 90;
  for (let lon = Math.ceil((midLon - across) / stepLon) * stepLon; x(lon) < width; lon += stepLon) {
    made.append(
      drawn("line", { class: "ar-grid", x1: x(lon), x2: x(lon), y1: 0, y2: height }),
      x(lon) > width - 44 ? "" : drawn("text", { class: "ar-tick", x: x(lon) + 3, y: height - 5 },
        `${number(Math.abs(lon), stepLon < 1 ? 1 : 0)}° ${lon < 0 ? "W" : "E"}`),
    );
  }
  const most = Math.max(...usual.map((p) => p.n), 1);
  for (const p of usual) {
    made.append(drawn("circle", {
      class: "ar-place", cx: x(p.lon), cy: y(p.lat), r: 3 + 9 * Math.sqrt(p.n / most),
    }));
  }
  if (path.length > 1) {
    const [[lat1, lon1], [lat2, lon2]] = path;
    made.append(drawn("line", { class: "ar-way", x1: x(lon1), y1: y(lat1), x2: x(lon2), y2: y(lat2) }));
    made.append(mark("paid", x(lon1), y(lat1)));
  }
  if (path.length) {
    const [lat, lon] = path[path.length - 1];
    made.append(mark("this", x(lon), y(lat)));
  }
  return [made, said(sentence)];
}

// The merchants that the customer paid most often, and this one among them or not.
function merchantsPicture(page, narrow) {
  const { most, n_this, n_merchants } = page.merchants;
  const name = page.merchants.this;
  const sentence = name == null
    ? "This payment names no merchant."
    : n_this ? `Paid here ${number(n_this)} times before; ${number(n_merchants)} merchants in all.`
      : `Never paid here before; ${number(n_merchants)} merchants in all.`;
  const rows = [...most];
  if (name != null && !rows.some((r) => r.name === name)) rows.push({ name, n: n_this ?? 0 });
  if (!rows.length) return [said(sentence)];
  const width = narrow ? 350 : 420, line = 24, height = rows.length * line + 6;
  const longest = Math.max(...rows.map((r) => r.n), 1);
  const made = picture(width, height, `Merchants. ${sentence}`, "ar-merchants");
  rows.forEach((row, i) => {
    const y = i * line + 4, mine = row.name === name;
    const bar = Math.max(((width - 190) * row.n) / longest, row.n ? 2 : 0);
    made.append(
      drawn("text", { class: mine ? "ar-name ar-mine" : "ar-name", x: 138, y: y + 14, "text-anchor": "end" },
        (mine ? "◆ " : "") + clipped(row.name, 18)),
      drawn("rect", { class: mine ? "ar-bar ar-mine" : "ar-bar", x: 146, y, width: bar, height: line - 7 }),
      drawn("text", { class: "ar-tick", x: 152 + bar, y: y + 14 }, number(row.n)),
    );
  });
  return [made, said(sentence)];
}

// From the score of a transaction without evidence, through what each factor adds, to this score.
function waterfallPicture(page, above, narrow) {
  const { base, parts, score, decision } = page.verdict;
  const rows = [
    { name: "no evidence", from: 0, to: base, text: number(base, 3), kind: "base" },
    ...parts.map((part, i) => {
      const from = base + parts.slice(0, i).reduce((sum, p) => sum + p.value, 0);
      const text = (part.value < 0 ? "−" : "+") + number(Math.abs(part.value), 3);
      return { name: part.factor, from, to: from + part.value, text, kind: part.value < 0 ? "less" : "more" };
    }),
    { name: "score", from: 0, to: score, text: number(score, 3), kind: decision },
  ];
  const width = narrow ? 350 : 640, line = 27, left = 96, right = 56, height = rows.length * line + 22;
  const ends = rows.flatMap((r) => [r.from, r.to]).concat(above ?? []);
  const most = Math.max(...ends, 0.01), least = Math.min(...ends, 0);
  const x = (v) => left + ((v - least) / (most - least)) * (width - left - right);
  const told = parts.map((p) => `${p.factor} ${number(p.value, 3)}`).join(", ");
  const made = picture(width, height,
    `Contributions to the score: without evidence ${number(base, 3)}, ${told}; ` +
    `the score is ${number(score, 3)}.`, "ar-waterfall");
  if (above != null) {
    made.append(
      drawn("line", { class: "ar-threshold", x1: x(above), x2: x(above), y1: 0, y2: height - 18 }),
      drawn("text", { class: "ar-tick", x: x(above), y: height - 5, "text-anchor": "middle" },
        `review above ${number(above, 3)}`),
    );
  }
  rows.forEach((row, i) => {
    const y = i * line + 4, a = x(Math.min(row.from, row.to)), b = x(Math.max(row.from, row.to));
    made.append(
      drawn("text", { class: "ar-name", x: left - 8, y: y + 14, "text-anchor": "end" }, row.name),
      drawn("rect", { class: `ar-part ar-part-${row.kind}`, x: a, y, width: Math.max(b - a, 1.5), height: line - 9 }),
      drawn("text", { class: "ar-tick", x: b + 6, y: y + 13 }, row.text),
    );
    if (i) made.append(drawn("line", { class: "ar-grid", x1: x(row.from), x2: x(row.from), y1: y - 9, y2: y }));
  });
  return [made];
}

function said(text) {
  const made = document.createElement("p");
  made.className = "ar-said";
  made.textContent = text;
  return made;
}
