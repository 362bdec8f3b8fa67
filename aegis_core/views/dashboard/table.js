// Newest verdicts, sortable and filterable. Every value becomes a text node, so that no merchant's
// name can be more than text. It stands still while someone points at it or has the focus in it.
// Enter or a click on a row tells the kernel which one; arrows go from row to row.

const CELLS = {
  text(cell, value) {
    cell.textContent = value;
    cell.title = value;
  },
  prose(cell, value) {
    cell.className = "prose";
    cell.append(element("div", "", value));
    cell.title = value;
  },
  number(cell, value) {
    cell.className = "number";
    cell.textContent = value.toLocaleString("en-GB", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  },
  count(cell, value) {
    cell.className = "number";
    cell.textContent = value.toLocaleString("en-GB");
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
    const heading = element("h2", "", model.get("title"));
    const told = element("small");
    if (model.get("title")) heading.append(" ", told);
    const search = element("input", "aegis-search");
    search.type = "search";
    const ofWhat = model.get("of_what");
    const counted = (n) => `${n} ${ofWhat}${n === 1 ? "" : "s"}`;
    search.placeholder = "Filter";
    search.setAttribute("aria-label", `Filter: ${label}`);
    const top = element("div", "aegis-heading");
    if (model.get("title")) top.append(heading, search);
    if (model.get("part")) heading.after(fromButton(model.get("part"), model.get("title")));
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
    el.append(top, scroll, note);

    let sorted = null; // { key, descending }; null: newest first
    let still = false;
    let drawn = new Map(); // seq -> the row's element
    let drawnOf = null; // what was asked for when the rows were drawn

    const heads = columns.map((column) => {
      const th = element("th", ["number", "count"].includes(column.kind) ? "number" : "");
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
      tr.tabIndex = -1;
      tr.dataset.seq = row.seq;
      tr.dataset.decision = row.decision ?? "";
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

    function matching(rows) {
      const wanted = search.value.trim().toLowerCase();
      if (!wanted) return rows;
      const text = (row) => columns.map(({ key }) => row[key] ?? "").join("\n").toLowerCase();
      return rows.filter((row) => text(row).includes(wanted));
    }

    function draw() {
      const rows = model.get("rows");
      drawnOf = model.get("of");
      const next = new Map(rows.map((row) => [row.seq, drawn.get(row.seq) ?? makeRow(row)]));
      const shown = inOrder(matching(rows));
      body.replaceChildren(...shown.map((row) => next.get(row.seq)));
      drawn = next;
      for (const { column, th, arrow } of heads) {
        const direction = sorted?.key === column.key ? (sorted.descending ? "descending" : "ascending") : "none";
        th.setAttribute("aria-sort", direction);
        arrow.textContent = { ascending: " ▲", descending: " ▼", none: "" }[direction];
      }
      note.textContent = shown.length < rows.length ? `${shown.length} of ${counted(rows.length)}` : counted(rows.length);
    }

    function pointedAt() {
      return scroll.matches(":hover") || scroll.contains(document.activeElement);
    }

    function arrived() {
      // An element that is taken away loses the focus without saying so.
      still = still && pointedAt();
      if (still && drawnOf === model.get("of")) note.textContent = `standing still while you read; newer ${ofWhat}s wait`;
      else draw();
    }

    function heard(message) {
      if (!message.tick) return;
      const rows = model.get("rows");
      const tick = rows.tick ?? model.get("tick");
      if (message.tick > tick + 1) {
        model.send({ need: "all" });
        return;
      }
      if (message.tick === tick + 1) {
        rows.unshift(...message.new);
        rows.length = message.keep;
      }
      rows.tick = message.tick;
      arrived();
    }

    function settle() {
      still = pointedAt();
      if (!still) draw();
    }

    function open(target) {
      const row = target.closest?.("tbody tr");
      if (row) model.send({ row: Number(row.dataset.seq) });
    }

    scroll.addEventListener("click", (event) => open(event.target));
    scroll.addEventListener("keydown", (event) => {
      const row = document.activeElement.closest?.("tbody tr");
      if (event.key === "Enter" && row) open(row);
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
      const next = event.key === "ArrowDown"
        ? (row ? row.nextElementSibling : body.firstElementChild)
        : row?.previousElementSibling;
      event.preventDefault();
      next?.focus();
    });
    search.addEventListener("input", draw);
    for (const event of ["mouseenter", "mouseleave", "focusin"]) scroll.addEventListener(event, settle);
    // While focusout runs the focus is nowhere yet.
    scroll.addEventListener("focusout", () => setTimeout(settle));
    const showNote = () => { told.textContent = model.get("note"); };
    model.on("change:rows", arrived);
    model.on("change:note", showNote);
    model.on("msg:custom", heard);
    showNote();
    draw();
  },
};
