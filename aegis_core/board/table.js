// Recent verdicts, newest first, sortable. Every value becomes a text node, so that no merchant's
// name can be more than text. It stands still while someone points at it or has the focus in it.

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
}

const CELLS = {
  text(cell, value) {
    cell.textContent = value;
    cell.title = value;
  },
  prose(cell, value) {
    cell.className = "prose";
    cell.textContent = value;
  },
  number(cell, value) {
    cell.className = "number";
    cell.textContent = value.toLocaleString("en-GB", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  },
  risk(cell, value) {
    const meter = element("span", "aegis-meter");
    meter.style.setProperty("--share", `${Math.max(0, Math.min(100, value))}%`);
    cell.append(meter, value.toFixed(2));
  },
  decision(cell, value) {
    const pill = element("span", "aegis-pill", value);
    pill.dataset.decision = value;
    cell.append(pill);
  },
};

export default {
  render({ model, el }) {
    el.classList.add("aegis-table");
    const columns = model.get("columns");
    const label = model.get("label");
    const note = element("div", "aegis-note");
    const scroll = element("div", "aegis-scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", label);
    const table = element("table");
    const header = element("tr");
    const body = element("tbody");
    const thead = element("thead");
    thead.append(header);
    table.append(element("caption", "aegis-hidden", label), thead, body);
    scroll.append(table);
    el.append(scroll, note);

    let sorted = null; // { key, descending }; null: newest first
    let still = false;
    let drawn = new Map(); // seq -> the row's element

    const heads = columns.map((column) => {
      const th = element("th", column.kind === "number" ? "number" : "");
      th.scope = "col";
      const button = element("button", "", column.title);
      button.type = "button";
      const arrow = element("span");
      arrow.setAttribute("aria-hidden", "true");
      button.append(arrow);
      button.onclick = () => {
        if (sorted?.key !== column.key) sorted = { key: column.key, descending: true };
        else sorted = sorted.descending ? { key: column.key, descending: false } : null;
        draw();
      };
      th.append(button);
      header.append(th);
      return { column, th, arrow };
    });

    function makeRow(row) {
      const tr = element("tr");
      for (const { key, kind } of columns) {
        const td = element("td");
        if (row[key] != null) CELLS[kind](td, row[key]);
        tr.append(td);
      }
      return tr;
    }

    function inOrder(rows) {
      if (!sorted) return rows;
      const sign = sorted.descending ? -1 : 1;
      const value = (row) => row[sorted.key] ?? "";
      return [...rows].sort((a, b) => sign * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
    }

    function draw() {
      const rows = model.get("rows");
      const next = new Map(rows.map((row) => [row.seq, drawn.get(row.seq) ?? makeRow(row)]));
      body.replaceChildren(...inOrder(rows).map((row) => next.get(row.seq)));
      drawn = next;
      for (const { column, th, arrow } of heads) {
        const direction = sorted?.key === column.key ? (sorted.descending ? "descending" : "ascending") : "none";
        th.setAttribute("aria-sort", direction);
        arrow.textContent = { ascending: " ▲", descending: " ▼", none: "" }[direction];
      }
      note.textContent = `${rows.length} verdicts`;
    }

    function arrived() {
      if (still) note.textContent = "standing still while you read; newer verdicts wait";
      else draw();
    }

    function settle() {
      still = scroll.matches(":hover") || scroll.contains(document.activeElement);
      if (!still) draw();
    }

    for (const event of ["mouseenter", "mouseleave", "focusin"]) scroll.addEventListener(event, settle);
    // While focusout runs the focus is nowhere yet.
    scroll.addEventListener("focusout", () => setTimeout(settle));
    model.on("change:rows", arrived);
    draw();
  },
};
