// Title, state of the data, theme; and the sign of life that keeps the kernel's loop running.

const STALE_AFTER_MS = 5500;

const SHIELD = `<svg width="26" height="26" viewBox="0 0 24 24" aria-hidden="true"><path fill="currentColor"
  d="M12 1 3 5v6c0 5.5 3.8 10.7 9 12 5.2-1.3 9-6.5 9-12V5l-9-4zm-1.2 15.2L7 12.4l1.5-1.5 2.3 2.3
  4.9-4.9 1.5 1.5-6.4 6.4z"/></svg>`;

function clock(epochMs) {
  return new Date(epochMs).toISOString().slice(11, 19) + " UTC";
}

export default {
  initialize({ model }) {
    return beating(model, { beat: true });
  },

  render({ model, el }) {
    el.classList.add("aegis-head");
    const brand = element("div", "aegis-brand");
    brand.innerHTML = SHIELD;
    const name = element("div");
    name.append(element("h1", "", "Aegis"), element("p", "", "Live fraud monitoring"));
    brand.append(name);

    const badge = element("span", "aegis-badge");
    badge.setAttribute("role", "status");
    const state = element("b");
    const detail = element("span");
    badge.append(element("i"), state, detail);
    const reload = element("button", "aegis-button", "Reload");
    reload.type = "button";
    reload.hidden = true;
    reload.onclick = () => location.reload();
    const pause = element("button", "aegis-button", "❚❚ Pause");
    pause.type = "button";
    let paused = false;
    pause.onclick = () => {
      paused = !paused;
      pause.textContent = paused ? "▶ Go on" : "❚❚ Pause";
      model.send({ pause: paused, visible: !document.hidden });
    };
    const right = element("div", "aegis-right");
    right.append(badge, reload, pause, themeButton());

    const origin = element("p", "aegis-origin");
    const notice = element("div", "aegis-notice");
    const storm = element("p", "aegis-storm");
    storm.setAttribute("role", "alert");
    const snoozed = element("details", "aegis-snoozed");
    const snoozers = element("table");
    snoozed.append(element("summary"), snoozers);
    const budget = element("p", "aegis-follows");
    const replayed = element("p", "aegis-follows aegis-replayed");
    el.append(brand, right, storm, replayed, budget, origin, snoozed, notice);

    let heardAt = Date.now();

    function showBadge(kind, text) {
      badge.dataset.state = kind;
      state.textContent = { live: "Live", paused: "Paused", stale: "Stale", waiting: "Waiting" }[kind] ?? kind;
      detail.textContent = text;
    }

    function showStatus() {
      const status = model.get("status");
      heardAt = Date.now();
      reload.hidden = true;
      const since = status.since ? `since ${clock(status.since)} · ` : "";
      const asOf = status.as_of ? `${since}as of ${clock(status.as_of)}` : "";
      const why = status.text ? `${asOf ? " · " : ""}${status.text}` : "";
      showBadge(status.state, asOf + why);
    }

    function showOrigin() {
      origin.replaceChildren();
      for (const [label, value] of model.get("origin")) {
        if (!["Champion", "since", "trained on", "running"].includes(label)) continue; // behind each number's "i"
        if (origin.childNodes.length) origin.append(" · ");
        origin.append(label + " ", element("b", "", value));
      }
      const { state: found, text } = model.get("proof");
      if (!text) return;
      const proof = element("span", "aegis-proof", text);
      proof.dataset.state = found;
      origin.append(" · ", proof);
    }

    function showNotice() {
      const { text, steps } = model.get("notice");
      notice.hidden = !text;
      notice.style.display = text ? "" : "none";
      notice.replaceChildren();
      if (!text) return;
      const list = element("dl");
      for (const [command, effect] of steps) {
        list.append(element("dt", "", command), element("dd", "", effect));
      }
      notice.append(element("p", "", text), list);
    }

    function showStorm() {
      storm.textContent = model.get("storm");
      storm.hidden = !storm.textContent;
    }

    function showBudget() {
      budget.textContent = model.get("budget");
      budget.hidden = !budget.textContent;
    }

    function showReplayed() {
      replayed.textContent = model.get("replayed");
      replayed.hidden = !replayed.textContent;
    }

    function showSnoozed() {
      const rows = model.get("snoozed");
      snoozed.hidden = !rows.length;
      snoozed.firstChild.textContent = `Snoozed: ${rows.length} customer${rows.length > 1 ? "s" : ""}, about whom nothing is asked`;
      snoozers.replaceChildren();
      for (const [i, row] of [["Customer", "Until (UTC)", "By", "Why"], ...rows].entries()) {
        const line = element("tr");
        line.append(...row.map((text) => element(i ? "td" : "th", "", text)));
        snoozers.append(line);
      }
    }

    // When the kernel or the server is gone nothing arrives any more and nobody else says so.
    const watch = setInterval(() => {
      if (document.hidden) {
        heardAt = Date.now();
        return;
      }
      if (Date.now() - heardAt < STALE_AFTER_MS) return;
      const { as_of } = model.get("status");
      const since = `since ${clock(heardAt)}`;
      showBadge("stale", `${since}${as_of ? ` · as of ${clock(as_of)}` : ""} · no answer`);
      reload.hidden = false;
    }, 500);

    model.on("change:status", () => {
      showStatus();
      document.body.dataset.aegisHeard = "yes"; // the charts wait for it
      window.dispatchEvent(new Event("aegis-heard"));
    });
    model.on("change:origin", showOrigin);
    model.on("change:proof", showOrigin);
    model.on("change:notice", showNotice);
    model.on("change:storm", showStorm);
    model.on("change:budget", showBudget);
    model.on("change:replayed", showReplayed);
    model.on("change:snoozed", showSnoozed);
    showStatus();
    showOrigin();
    showNotice();
    showStorm();
    showBudget();
    showReplayed();
    showSnoozed();
    return () => clearInterval(watch);
  },
};
