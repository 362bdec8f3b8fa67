// The review page: queue, one case, keys. What a person does goes to the kernel as a message that
// names an action; what is shown comes back in the widget's traits. All of it is text nodes.

const STALE_AFTER_MS = 15000;
const KEYS = [
  ["N", "next case"], ["F", "fraud"], ["L", "legitimate"], ["⇧F / ⇧L", "this transaction only"],
  ["M", "note"], ["S", "snooze"], ["U", "undo, 10 s"], ["J / K", "other transaction"], ["Q", "queue"],
];

function button(text, className, act) {
  const plain = className === "ar-row" || className === "ar-transaction";
  const made = element("button", plain ? className : `aegis-button ${className}`.trim(), text);
  made.type = "button";
  made.onclick = act;
  return made;
}

function keyed(made, key) {
  made.append(element("kbd", "", key));
  made.setAttribute("aria-keyshortcuts", key.toLowerCase());
  return made;
}

function field(label, input) {
  const made = element("label", "ar-field");
  made.append(element("span", "", label), input);
  return made;
}

function ago(ms) {
  const s = Math.max(0, (Date.now() - ms) / 1000);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

const share = (s) => (s && s.share != null ? `${Math.round(s.share * 100)} %` : "–");
const ends = (s, what, none) =>
  s && s.share != null
    ? `${Math.round(s.low * 100)}–${Math.round(s.high * 100)} % at nine in ten, of ${number(s.n)} ${what}`
    : none;

function pill(decision) {
  const made = element("span", "aegis-pill", decision);
  made.dataset.decision = decision;
  return made;
}

function panel(title, className, note) {
  const made = element("section", `ar-panel ${className}`);
  const heading = element("h2", "", title);
  if (note) heading.append(" ", element("small", "", note));
  made.append(heading);
  made.setAttribute("aria-label", title);
  return made;
}

export default {
  initialize({ model }) {
    return beating(model, { do: "beat" });
  },

  render({ model, el }) {
    el.classList.add("aegis-review");
    // Keys of JupyterLab's own would take ours away.
    el.dataset.lmSuppressShortcuts = "true";
    const send = (what, more = {}) => model.send({ do: what, ...more });
    const state = { note: "", level: null, keys: stored("aegis-keys") !== "off", undoUntil: 0 };
    let heardAt = Date.now();

    // ---- the fixed parts

    const head = element("header", "ar-head");
    const name = element("div", "ar-brand");
    name.append(element("h1", "", "Aegis review"), element("p", "", ""));
    const badge = element("span", "aegis-badge");
    badge.setAttribute("role", "status");
    const badgeState = element("b"), badgeText = element("span");
    badge.append(element("i"), badgeState, badgeText);
    const reload = button("Reload", "", () => location.reload());
    reload.hidden = true;
    const keysButton = button("", "", () => {
      state.keys = !state.keys;
      stored("aegis-keys", state.keys ? "on" : "off");
      showKeys();
    });
    const right = element("div", "ar-right");
    right.append(badge, reload, keysButton, themeButton());
    head.append(name, right);

    const told = element("p", "ar-told");
    told.setAttribute("role", "status");
    told.setAttribute("aria-live", "polite");
    const toldText = element("span");
    const undo = keyed(button("Undo", "", () => send("undo")), "U");
    undo.hidden = true;
    told.append(toldText, undo);

    const asking = element("form", "ar-panel ar-asking");
    const asked = element("input");
    asked.maxLength = 200;
    asked.autocomplete = "name";
    asked.required = true;
    const start = element("button", "aegis-button ar-primary", "Begin");
    start.type = "submit";
    const askedFor = field("", asked);
    asking.append(element("h2", "", "Who answers?"),
      said("Every answer bears your name, and stays."), askedFor, start);
    asking.hidden = true;
    asking.onsubmit = (event) => {
      event.preventDefault();
      if (asked.type === "text") stored("aegis-analyst", asked.value);
      send("name", { name: asked.value });
      if (asked.type === "password") asked.value = "";
    };

    const tiles = element("div", "ar-tiles");
    const queue = panel("Open cases", "ar-queue");
    const caseView = panel("Case", "ar-case");
    const caseHeading = caseView.querySelector("h2");
    caseHeading.tabIndex = -1;
    const whatIf = panel("What if", "ar-what-if", "the last 7 days under another alert budget");
    const help = element("p", "ar-keys");
    for (const [key, what] of KEYS) {
      const item = element("span");
      item.append(element("kbd", "", key), what);
      help.append(item);
    }
    const body = element("div", "ar-body");
    body.append(queue, caseView);
    el.append(head, told, asking, tiles, body, whatIf, help);

    function showKeys() {
      keysButton.textContent = state.keys ? "⌨ Keys on" : "⌨ Keys off";
      keysButton.setAttribute("aria-pressed", String(state.keys));
      keysButton.setAttribute("aria-label", "Single keys");
    }

    function showStatus() {
      const status = model.get("status");
      heardAt = Date.now();
      reload.hidden = true;
      badge.dataset.state = status.state === "live" ? "live" : status.state === "stale" ? "stale" : "waiting";
      badgeState.textContent = { live: "Live", stale: "Stale" }[status.state] ?? "Waiting";
      badgeText.textContent = status.text ?? (status.state === "live"
        ? status.served ? "through the service" : "in the database itself" : "");
      const known = Boolean(status.who);
      name.querySelector("p").textContent = known ? `You answer as ${clipped(status.who, 60)}` : "Nobody answers yet";
      const begins = !known && asking.hidden !== false;
      asking.hidden = known;
      if (begins && document.body.dataset.voila) setTimeout(() => asked.focus(), 0);
      for (const part of [tiles, body, whatIf, help]) part.hidden = !known;
      const secret = Boolean(status.tokens);
      if (!known && secret !== (asked.type === "password")) {
        asked.type = secret ? "password" : "text";
        asked.value = "";
      }
      askedFor.firstChild.textContent = secret ? "Your token" : "Your name";
      if (!known && !secret && !asked.value) asked.value = stored("aegis-analyst") || "";
    }

    function showTold() {
      const { text, tone, undo_s, focus } = model.get("told");
      toldText.textContent = clipped(text ?? "", 600);
      told.dataset.tone = tone ?? "";
      told.classList.toggle("ar-silent", !text);
      if (undo_s) state.undoUntil = Date.now() + undo_s * 1000;
      else if (text) state.undoUntil = 0;
      undo.hidden = Date.now() >= state.undoUntil;
      if (undo_s) state.note = "";
      if (focus === "case") caseHeading.focus({ preventScroll: false });
      if (focus === "queue") queue.querySelector("h2")?.focus();
    }

    // ---- numbers

    function showNumbers() {
      const n = model.get("numbers"), q = model.get("queue");
      const rows = [
        ["Open cases", number(q.n_open ?? 0), n.oldest_s == null ? "none waits"
          : `oldest ${ago(Date.now() - n.oldest_s * 1000)}, half wait ${ago(Date.now() - n.median_s * 1000)}`],
        ["Answered today", number(n.answered_today ?? 0),
          `${number(n.answered_a_day ?? 0, 1)} a day over a week`],
        ["Fraud among answers", share(n.precision),
          ends(n.precision, "answers about alerts", "no alert was answered yet")],
        ["Analysts agree", share(n.agreement),
          ends(n.agreement, "audit transactions", "none of the audit sample was answered twice")],
      ];
      tiles.replaceChildren(...rows.map(([label, value, note]) => {
        const tile = element("div", "ar-tile");
        tile.append(element("div", "", label), element("div", "value", value), element("div", "", note));
        return tile;
      }));
    }

    // ---- the queue

    function showQueue() {
      const q = model.get("queue"), mine = model.get("case").case_id;
      const focused = queue.contains(document.activeElement)
        ? document.activeElement.dataset.id ?? document.activeElement.dataset.part : null;
      const heading = element("h2", "", "Open cases");
      heading.tabIndex = -1;
      const rest = [];
      if (q.n_claimed) rest.push(`${number(q.n_claimed)} claimed`);
      if (q.n_asleep) rest.push(`${number(q.n_asleep)} snoozed`);
      heading.append(" ", element("small", "", [number(q.n_open ?? 0), ...rest].join(" · ")));
      const order = element("select");
      order.dataset.part = "order";
      for (const [value, text] of [["risk", "risk × amount"], ["age", "age, oldest first"]]) {
        const option = element("option", "", text);
        option.value = value;
        option.selected = q.order === value;
        order.append(option);
      }
      order.onchange = () => send("sort", { order: order.value });
      const next = keyed(button("Next case", "ar-primary", () => send("next")), "N");
      next.dataset.part = "next";
      const bar = element("div", "ar-bar-of-queue");
      bar.append(field("Sorted by", order), next);
      if (q.storm) bar.append(element("p", "ar-held", `${clipped(q.storm, 400)} A sample of each kind comes first.`));
      const list = element("ul");
      for (const c of q.cases ?? []) {
        const item = element("li");
        const open = button("", "ar-row", () => send("open", { case_id: c.case_id }));
        open.dataset.id = c.case_id;
        if (c.case_id === mine) open.setAttribute("aria-current", "true");
        const first = element("span", "ar-row-first");
        first.append(element("b", "", money(c.amount, c.currency, c.digits)),
          element("span", "", `risk ${number(c.risk, 1)}`), element("span", "", ago(c.oldest)));
        const second = element("span", "ar-row-second");
        second.append(element("span", "", clipped(c.customer_id, 40)),
          element("span", "", `${number(c.waiting)} transaction${c.waiting > 1 ? "s" : ""}`));
        if (c.audit) second.append(element("em", "", "audit sample"));
        if (c.replayed) second.append(element("em", "", "replayed"));
        if (c.alike > 1) {
          second.append(element("em", "", `the worst of ${number(c.alike)} cases ${clipped(c.campaign, 40)}`));
        }
        if (c.n_blocked) second.append(element("em", "", `${number(c.n_blocked)} blocked`));
        if (c.holder) second.append(element("em", "ar-held", c.holder === model.get("status").who
          ? "yours" : `${clipped(c.holder, 30)} until ${minute(c.until).slice(11)}`));
        open.append(first, second);
        if (c.why) open.append(element("span", "ar-row-why", clipped(c.why, 160)));
        item.append(open);
        list.append(item);
      }
      if (!list.childNodes.length) list.append(element("li", "ar-nothing", "No case is open."));
      const top = queue.querySelector("ul")?.scrollTop ?? 0;
      queue.replaceChildren(heading, bar, list);
      list.scrollTop = top;
      if (focused != null) {
        const again = [...queue.querySelectorAll("[data-id], [data-part]")]
          .find((e) => e.dataset.id === focused || e.dataset.part === focused);
        (again ?? heading).focus({ preventScroll: true });
      }
    }

    // ---- the case

    function actions(page) {
      const made = element("div", "ar-actions");
      const all = page.n_open > 1 ? ` all ${number(page.n_open)}` : "";
      made.append(
        keyed(button(`Fraud${all}`, "ar-fraud-button", () => answer("fraud")), "F"),
        keyed(button(`Legitimate${all}`, "ar-primary", () => answer("legitimate")), "L"),
      );
      if (page.n_open > 1) {
        made.append(
          keyed(button("Only this: fraud", "", () => answer("fraud", true)), "Shift+F"),
          keyed(button("Only this: legitimate", "", () => answer("legitimate", true)), "Shift+L"),
        );
      }
      made.append(
        keyed(button("Snooze", "", () => show("snooze")), "S"),
        button("Release", "", () => send("release")),
      );
      const note = element("input");
      note.maxLength = 2000;
      note.value = state.note;
      note.dataset.part = "note";
      note.placeholder = "kept with the answer";
      note.oninput = () => { state.note = note.value; };
      const snooze = element("form", "ar-snooze");
      snooze.hidden = state.showing !== "snooze";
      const until = element("input");
      until.type = "date";
      until.required = true;
      until.value = page.snooze_until;
      until.dataset.part = "until";
      const why = element("input");
      why.maxLength = 200;
      why.required = true;
      why.placeholder = "why";
      const go = element("button", "aegis-button ar-primary", "Snooze the customer");
      go.type = "submit";
      snooze.append(field("Until (transactions' clock)", until), field("Why", why), go);
      snooze.onsubmit = (event) => {
        event.preventDefault();
        state.showing = "";
        send("snooze", { until: until.value, why: why.value });
      };
      made.append(keyedField("Note", note, "M"), snooze);
      return made;
    }

    function keyedField(label, input, key) {
      const made = field(label, input);
      made.firstChild.append(" ", element("kbd", "", key));
      return made;
    }

    function answer(what, one = false) {
      const page = model.get("case");
      if (!page.n_open) return;
      send("answer", { answer: what, one, note: state.note });
    }

    function show(part) {
      state.showing = state.showing === part ? "" : part;
      const form = caseView.querySelector(".ar-snooze");
      if (!form) return;
      form.hidden = state.showing !== "snooze";
      if (!form.hidden) form.querySelector("input").focus();
    }

    function transactions(page) {
      const made = element("div", "ar-transactions");
      made.setAttribute("role", "group");
      made.setAttribute("aria-label", "Transactions of this case");
      for (const t of page.transactions) {
        const one = button("", "ar-transaction", () => send("pick", { transaction_id: t.transaction_id }));
        one.dataset.id = t.transaction_id;
        one.setAttribute("aria-pressed", String(t.transaction_id === page.this));
        one.append(element("b", "", money(t.amount, t.currency, t.digits)), element("span", "", minute(t.ms)),
          element("span", "", clipped(t.merchant_id ?? "no merchant", 24)), pill(t.decision),
          element("em", "", clipped(t.entry, 120)),
          element("em", "", t.audit ? "audit sample" : ""), element("em", "", t.replayed ? "replayed" : ""),
          element("em", "", t.open ? "" : "answered"));
        made.append(one);
      }
      return made;
    }

    function pictured(title, parts) {
      const made = element("section", "ar-pictured");
      made.append(element("h3", "", title), ...parts);
      return made;
    }

    function reasons(page, above, narrow) {
      const v = page.verdict;
      const list = element("ul", "ar-reasons");
      for (const r of v.reasons) list.append(element("li", "", clipped(r.text, 400)));
      if (!v.reasons.length) list.append(element("li", "", "Nothing unusual: drawn for the audit sample."));
      return pictured("Why", [list, ...waterfallPicture(page, above, narrow),
        said(v.cleared ?? "What would have cleared it was not told with the verdict.")]);
    }

    function shared(page) {
      if (!page.shared.length) return [];
      const list = element("ul", "ar-reasons");
      for (const s of page.shared) {
        const one = element("li");
        const more = s.others - s.customers.length;
        const told = s.customers.map((c) =>
          `${clipped(c.customer_id, 30)} (${number(c.n)} ${c.n === 1 ? "payment" : "payments"}, last ${minute(c.ms)})`);
        if (more > 0) told.push(`and ${number(more)} ${more === 1 ? "other" : "others"}`);
        one.append(element("b", "", `${s.kind} ${clipped(s.value, 30)}`),
          ` with ${number(s.others)} other ${s.others === 1 ? "customer" : "customers"}: ${told.join(", ")}`);
        list.append(one);
      }
      const made = pictured("Shared with others", [list]);
      made.classList.add("ar-earlier");
      return [made];
    }

    function earlier(page) {
      const made = element("section", "ar-pictured ar-earlier");
      made.append(element("h3", "", "Earlier verdicts and answers"));
      if (!page.earlier.length) {
        made.append(said("No earlier alert and no answer about this customer."));
        return made;
      }
      const scroll = element("div", "ar-scroll");
      scroll.tabIndex = 0;
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", "Earlier verdicts and answers");
      const table = element("table");
      const top = element("tr");
      for (const title of ["When (UTC)", "Amount", "Merchant", "Decision", "Answer", "By", "Note or reason"]) {
        const cell = element("th", "", title);
        cell.scope = "col";
        top.append(cell);
      }
      const thead = element("thead"), tbody = element("tbody");
      thead.append(top);
      for (const e of page.earlier) {
        const row = element("tr");
        const decision = element("td");
        if (e.decision) decision.append(pill(e.decision));
        row.append(element("td", "", minute(e.ms)), element("td", "number", money(e.amount, e.currency, e.digits)),
          element("td", "", clipped(e.merchant_id ?? "–", 30)), decision,
          element("td", e.answer === "fraud" ? "ar-is-fraud" : "", e.answer ?? "open"),
          element("td", "", clipped(e.analyst ?? "–", 30)), element("td", "prose", clipped([e.entry, e.note ?? e.why].filter(Boolean).join(": "), 200)));
        tbody.append(row);
      }
      table.append(thead, tbody);
      scroll.append(table);
      made.append(scroll);
      return made;
    }

    const isNarrow = () => el.clientWidth > 0 && el.clientWidth < 640;

    function showCase() {
      const page = model.get("case"), above = model.get("what_if").actual?.review_above;
      const focused = caseView.contains(document.activeElement) ? document.activeElement : null;
      const part = focused?.dataset.part, id = focused?.dataset.id, on = focused === caseHeading;
      caseHeading.replaceChildren();
      if (!page.case_id) {
        caseHeading.append("No case");
        caseView.replaceChildren(caseHeading, said("Press N, or choose a case of the queue."));
        return;
      }
      if (!page.transactions) {
        caseHeading.append("Answered");
        caseView.replaceChildren(caseHeading, said("All of this case is answered. N brings the next one."));
        if (on) caseHeading.focus();
        return;
      }
      const word = page.done ? "answered" : `${number(page.n_open)} of ${number(page.n)} open`;
      const left = page.until ? `yours until ${minute(page.until).slice(11)} UTC` : page.done ? "" : "not claimed";
      caseHeading.append(`Customer ${clipped(page.customer_id, 60)} `,
        element("small", "", [word, left, `${number(page.n_before)} payments before`].filter(Boolean).join(" · ")));
      const grid = element("div", "ar-grid-of-pictures");
      const narrow = isNarrow(), outlines = model.get("outlines");
      grid.append(
        pictured("Amounts", amountsPicture(page, narrow)), reasons(page, above, narrow),
        pictured("Hours (local)", hoursPicture(page)),
        pictured("Places", placesPicture(page, outlines, narrow)),
        pictured("Merchants", merchantsPicture(page, narrow)), ...shared(page), earlier(page),
      );
      const scrolled = window.scrollY;
      caseView.replaceChildren(caseHeading, ...(page.done ? [] : [actions(page)]), transactions(page), grid);
      const again = part ? caseView.querySelector(`[data-part="${part}"]`)
        : id ? [...caseView.querySelectorAll("[data-id]")].find((e) => e.dataset.id === id) : null;
      if (again) again.focus({ preventScroll: true });
      else if (focused) caseHeading.focus({ preventScroll: true });
      if (part === "note" && again) again.setSelectionRange(again.value.length, again.value.length);
      if (Math.abs(window.scrollY - scrolled) > 1) window.scrollTo(0, scrolled);
    }

    // ---- what if

    function showWhatIf() {
      const w = model.get("what_if");
      const heading = whatIf.querySelector("h2");
      if (!w.actual) {
        const load = button("Look at the last 7 days", "", () => {
          load.setAttribute("aria-disabled", "true");
          send("what_if");
        });
        whatIf.replaceChildren(heading, load);
        return;
      }
      if (!w.levels.length) {
        whatIf.replaceChildren(heading,
          said("The champion scored nothing in the last 7 days, so there is nothing to compare."));
        return;
      }
      const near = w.levels.reduce((a, b, i) =>
        Math.abs(b.budget - w.actual.budget) < Math.abs(w.levels[a].budget - w.actual.budget) ? i : a, 0);
      state.level ??= near;
      const slider = element("input");
      slider.type = "range";
      slider.min = 0;
      slider.max = w.levels.length - 1;
      slider.value = state.level;
      const table = element("table", "ar-compare");
      const note = element("input");
      note.maxLength = 2000;
      const propose = button("Propose", "", () =>
        send("propose", { budget: w.levels[state.level].budget, note: note.value }));
      const percent = (b) => `${number(b * 100, b < 0.001 ? 3 : 2)} %`;
      const draw = () => {
        state.level = Number(slider.value);
        const level = w.levels[state.level];
        slider.setAttribute("aria-valuetext",
          `budget ${percent(level.budget)}, review above ${number(level.review_above, 3)}`);
        const rows = [
          ["", "as it is", "as it would be"],
          ["Budget", percent(w.actual.budget), percent(level.budget)],
          ["Review above (score)", number(w.actual.review_above, 3), number(level.review_above, 3)],
          ["Alerts", number(w.actual.alerts), number(level.alerts)],
          ["Known frauds caught", `${number(w.actual.caught)} of ${number(w.frauds)}`,
            `${number(level.caught)} of ${number(w.frauds)}`],
          ["Money of those caught", number(w.actual.amount_caught, 2), number(level.amount_caught, 2)],
          ["Money of those missed", number(w.actual.amount_lost, 2), number(level.amount_lost, 2)],
        ];
        const tbody = element("tbody");
        rows.slice(1).forEach((cells) => {
          const row = element("tr");
          cells.forEach((text, i) => {
            const cell = element(i ? "td" : "th", i ? "number" : "", text);
            if (!i) cell.scope = "row";
            row.append(cell);
          });
          tbody.append(row);
        });
        const thead = element("thead"), top = element("tr");
        rows[0].forEach((text, i) => {
          const cell = element(i ? "th" : "td", "", text);
          if (i) cell.scope = "col";
          top.append(cell);
        });
        thead.append(top);
        table.replaceChildren(thead, tbody);
        propose.textContent = `Propose ${percent(level.budget)}`;
      };
      slider.oninput = draw;
      draw();
      const others = w.others ? ` ${number(w.others)} more were scored by other models and are left out.` : "";
      const controls = element("div", "ar-what-if-controls");
      controls.append(field("Alert budget", slider), field("Note", note), propose,
        said("A proposal is only recorded; nothing changes until somebody trains with it."));
      const side = element("div");
      side.append(table, said(`${number(w.transactions)} transactions of ${number(w.days, 1)} days, ` +
        `scored by ${w.model_version}.${others} Only frauds that are known by now count, and most are known because they were alerts.`));
      const both = element("div", "ar-what-if-both");
      both.append(controls, side);
      whatIf.replaceChildren(heading, both);
    }

    // ---- keys

    function onKey(event) {
      if (!state.keys || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const typing = event.target.closest?.("input, textarea, select, [contenteditable=true]");
      if (event.key === "Escape" && typing) {
        caseHeading.focus();
        event.preventDefault();
        return;
      }
      if (typing || asking.hidden === false) return;
      const page = model.get("case");
      const other = (step) => {
        const all = page.transactions ?? [];
        if (all.length < 2) return;
        const at = all.findIndex((t) => t.transaction_id === page.this);
        send("pick", { transaction_id: all[(at + step + all.length) % all.length].transaction_id });
      };
      const does = {
        n: () => send("next"),
        f: () => answer("fraud", event.shiftKey),
        l: () => answer("legitimate", event.shiftKey),
        u: () => send("undo"),
        s: () => show("snooze"),
        m: () => caseView.querySelector('[data-part="note"]')?.focus(),
        j: () => other(1),
        k: () => other(-1),
        q: () => queue.querySelector("[data-id]")?.focus(),
      }[event.key.toLowerCase()];
      if (!does || event.repeat) return;
      event.preventDefault();
      event.stopPropagation();
      does();
    }

    let drawnNarrow = isNarrow();
    const resized = new ResizeObserver(() => {
      if (isNarrow() === drawnNarrow) return;
      drawnNarrow = isNarrow();
      showCase();
    });
    resized.observe(el);

    const keysOn = document.body.dataset.voila ? document : el;
    keysOn.addEventListener("keydown", onKey);
    const watch = setInterval(() => {
      undo.hidden = Date.now() >= state.undoUntil;
      if (document.hidden) heardAt = Date.now();
      if (Date.now() - heardAt < STALE_AFTER_MS) return;
      badge.dataset.state = "stale";
      badgeState.textContent = "Stale";
      badgeText.textContent = "no answer";
      reload.hidden = false;
    }, 1000);
    const shown = {
      status: showStatus, told: showTold, numbers: showNumbers, what_if: () => { showWhatIf(); showCase(); },
      queue: () => { showQueue(); showNumbers(); }, case: () => { showCase(); showQueue(); },
    };
    for (const [trait, act] of Object.entries(shown)) model.on(`change:${trait}`, act);
    showKeys();
    for (const act of Object.values(shown)) act();
    return () => {
      clearInterval(watch);
      resized.disconnect();
      keysOn.removeEventListener("keydown", onKey);
    };
  },
};
