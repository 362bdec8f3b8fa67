"""The review page: the analysts' queue, one case at a time, and what another budget would do.

`Page` is the one widget, all of it text and pictures that the browser draws; `Review` is what an
analyst's messages do. Every message is taken as input from a stranger: it may name an action of a
short list, and each value is checked before the desk is asked, which asks the service or the
database (`client.Desk`). Nothing is done for somebody who has no name; where analysts have tokens,
theirs is what the page asks for, and it holds no longer than that; a page that was started for one
analyst asks for none. An exception becomes a sentence
on the page; a traceback never gets there.

The kernel imports neither pandas nor plotly.py as long as a service runs: what needs them is
asked of it. Without Voilà the same page runs in JupyterLab; `board.report` tells the queue for
papermill.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

from aegis_core.config import NOTEBOOK_FOLDER, Settings
from aegis_core.errors import AegisError, InputError
from aegis_core.machine import utc_now
from aegis_core.review import cases
from aegis_core.review.answers import NEWEST, UNDO_S, named
from aegis_core.serving import token
from aegis_core.serving.client import Desk
from aegis_core.store import Store, floods
from aegis_core.units.money import digits
from aegis_core.views import launcher
from aegis_core.views.dashboard.assets import ASSETS
from aegis_core.views.dashboard.customer import epoch_ms, page
from aegis_core.views.dashboard.widgets import modules

NOTEBOOK: Final = NOTEBOOK_FOLDER / "05_review.ipynb"
OUTLINES: Final = ASSETS / "outlines.json"
"""Coasts and borders of Natural Earth, which is in the public domain."""
_HERE: Final = Path(__file__).parent
SHOWN_CASES: Final = 100
STATISTICS_EVERY_S: Final = 20.0
WEATHER_EVERY_S: Final = 10.0
"""How often it is looked whether there is a storm of alerts."""
LONGEST_PAUSE_S: Final = 10.0
"""Between two readings of the queue; the page takes a longer silence for an end."""
SNOOZE_DAYS: Final = 7
"""How far ahead the page proposes to snooze a customer."""
_Changes = dict[str, dict[str, Any]]


class Page(anywidget.AnyWidget):
    """The page; its views are `review_pictures.js` and `review.js`, which is their order."""

    _esm = modules(_HERE / "review_pictures.js", _HERE / "review.js")
    _css = "\n".join(
        path.read_text("utf-8") for path in (ASSETS / "board.css", _HERE / "review.css")
    )
    beat_s = traitlets.Int(10).tag(sync=True)
    status: traitlets.Dict[str, Any] = traitlets.Dict({"who": ""}).tag(sync=True)
    queue: traitlets.Dict[str, Any] = traitlets.Dict({"cases": []}).tag(sync=True)
    numbers: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    case: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    what_if: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    told: traitlets.Dict[str, Any] = traitlets.Dict({"text": ""}).tag(sync=True)
    outlines: traitlets.List[Any] = traitlets.List().tag(sync=True)


class Review:
    """The review page of one analyst.

    The loop that keeps the queue up to date starts with the browser's first message and never when
    a cell runs; it ends when no message came for `silent_s` seconds.

    Parameters
    ----------
    analyst : Who works here; "" means that the page asks.
    interval_s : Time between two readings of the queue, in seconds.
    on_left : Called when the analyst is gone; in Voilà it ends the kernel.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        analyst: str = "",
        *,
        interval_s: float = 2.0,
        silent_s: float = 90.0,
        on_left: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.settings = store, settings
        self.interval_s, self.silent_s, self.on_left = interval_s, silent_s, on_left
        self.desk = Desk(store, settings, analyst) if analyst else None
        self.fixed = bool(analyst)
        self._said = ""  # who this is: a name, or a token
        self.page = Page(outlines=json.loads(OUTLINES.read_text("utf-8"))["lines"])
        self._order, self._storm = "risk", ""
        self._weather_at = -WEATHER_EVERY_S
        self._case_id, self._this, self._last_case = "", "", ""
        self._undoable: tuple[float, str, list[str]] = (0.0, "", [])
        self._publish_at: float | None = 0.0
        self._counted_at = -STATISTICS_EVERY_S
        self._ticks = 0
        self._heard_at = time.monotonic()
        self._visible = True
        self._loop: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._acts: set[asyncio.Task[None]] = set()
        self.page.on_msg(self._heard)

    # ---- what a message does

    def act(self, content: Mapping[str, Any]) -> None:
        """Do what a message asks, and show the outcome; whatever is wrong with it is shown too."""
        self._show(self._done(content))

    def refresh(self) -> None:
        """Read the queue and show it."""
        self._show(self._read())

    def _done(self, content: Mapping[str, Any]) -> _Changes:
        try:
            self._look_who_is_here()
            if content.get("do") == "name":
                told = self._name(content)
            elif self.desk is None:
                raise InputError("Say who answers.")
            else:
                told = self._did(self.desk, content)
        except Exception as e:
            told = _wrong(e)
        # The outcome comes last: who reads it finds the page as it says.
        count = content.get("do") in ("answer", "undo", "name")
        return self._read(count=count) | {"told": told}

    def _name(self, content: Mapping[str, Any]) -> dict[str, Any]:
        if self.fixed:
            raise InputError("This page answers for one analyst; start another one for others.")
        self._said = _text(content, "name", 200)
        who = token.analyst(self.store.path, self._said)
        self.desk = Desk(self.store, self.settings, who)
        return {"text": f"You answer as {self.desk.analyst}. N brings the next case."}

    def _look_who_is_here(self) -> None:
        """Do nothing more for whose token was revoked, or who has none where others have."""
        if self.desk and not self.fixed and self._known_as(self._said) != self.desk.analyst:
            self.desk = None
            self._look_at("")

    def _known_as(self, said: str) -> str:
        """The analyst's name for what somebody says of themselves, "" where that is not enough."""
        try:
            return token.analyst(self.store.path, said)
        except InputError:
            return ""

    def _did(self, desk: Desk, content: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a page may ask for, and nothing else; what to tell of it."""
        match content.get("do"):
            case "next":
                self._look_at(
                    desk.claim(order=self._sorted(), after=self._case_id or self._last_case)
                )
                if not self._case_id:
                    return {"text": "No open case is free."}
                return {"text": "The next case is yours for ten minutes.", "focus": "case"}
            case "open":
                self._look_at(desk.claim(_text(content, "case_id", 200)))
                return {"text": "The case is yours for ten minutes.", "focus": "case"}
            case "pick":
                self._this = _text(content, "transaction_id", 200)
                return {"text": ""}
            case "answer" | "snooze" if not self._case_id:
                raise InputError("Claim a case first: N brings the next one.")
            case "answer":
                return self._answered(desk, content)
            case "undo":
                until, case_id, made = self._undoable
                if not made or time.monotonic() > until:
                    raise InputError(
                        "There is nothing to take back; an answer can be for ten seconds."
                    )
                n = len(desk.undo(made))
                self._undoable = (0.0, "", [])
                self._look_at(desk.claim(case_id))
                return {"text": f"Taken back: {n} answer{'s' if n > 1 else ''}.", "focus": "case"}
            case "release":
                desk.release()
                self._look_at("")
                return {"text": "Released; others can take it.", "focus": "queue"}
            case "snooze":
                end, why = _text(content, "until", 40), _text(content, "why", 200)
                customer = cases.inside(self.store, self._case_id)[0]["customer_id"]
                desk.snooze(customer, end, why)
                self._look_at("")
                return {"text": f"The customer is snoozed until {end}.", "focus": "queue"}
            case "sort":
                if (order := _text(content, "order", 20)) not in ("risk", "age"):
                    raise InputError("The queue is sorted by risk or by age.")
                self._order = order
                return {"text": ""}
            case "what_if":
                self._tried = desk.what_if()
                return {"text": ""}
            case "propose":
                budget, note = content.get("budget"), _text(content, "note", 2_000, empty=True)
                if isinstance(budget, bool) or not isinstance(budget, int | float):
                    raise InputError("A budget is a share in (0, 1).")
                made_ = desk.propose(float(budget), note)
                told = f"Proposed as {made_}: a budget of {budget:.2%}. Nothing else changed."
                return {"text": told}
        raise InputError("The page asked for something that there is not.")

    def _answered(self, desk: Desk, content: Mapping[str, Any]) -> dict[str, Any]:
        answer, only = _text(content, "answer", 20), bool(content.get("one"))
        note, these = _text(content, "note", 2_000, empty=True), [self._this] if only else []
        made = desk.answer(self._case_id, answer, note=note, only=these)
        self._undoable = (time.monotonic() + UNDO_S, self._case_id, made)
        self._publish_at = time.monotonic() + UNDO_S + 0.5
        n = f"{len(made)} transactions" if len(made) > 1 else "1 transaction"
        told = f"{answer.capitalize()}: {n}. U takes it back."
        return {"text": told, "undo_s": UNDO_S, "focus": "case"}

    # ---- what is shown

    def _look_at(self, case_id: str) -> None:
        self._last_case = self._case_id or self._last_case
        self._case_id, self._this = case_id, ""

    def _read(self, *, count: bool = False) -> _Changes:
        """The queue and the case as they are now; a database that is busy makes the page stale."""
        self._ticks += 1
        self._look_who_is_here()
        who = self.desk.analyst if self.desk else ""
        status: dict[str, Any] = {"who": who, "fixed": self.fixed, "tick": self._ticks}
        if self.desk is None:
            status |= {"state": "asking", "tokens": not self._known_as("a name")}
            return {"status": status, "queue": {"cases": []}, "case": {}}
        try:
            return self._everything(self.desk, status, count)
        except Exception as e:
            return {"status": status | {"state": "stale", "text": _wrong(e)["text"]}}

    def _everything(self, desk: Desk, status: dict[str, Any], count: bool) -> _Changes:
        if self._publish_at is not None and time.monotonic() >= self._publish_at:
            desk.publish()
            self._publish_at = None
        who = desk.analyst
        self._look_at_the_weather()
        found = cases.queue(
            self.store, order=self._sorted(), analyst=who, limit=SHOWN_CASES, fold=True
        )
        shown = [_said(case) for case in found.cases]
        held = cases.holds(self.store, who)
        until = next((c.until for c in held if c.case_id == self._case_id), None)
        status |= {"state": "live", "served": bool(desk.served())}
        changes: _Changes = {
            "status": status,
            "queue": vars(found) | {"cases": shown, "order": self._order, "storm": self._storm},
            "case": self._page(desk, until),
            "what_if": getattr(self, "_tried", {}),
        }
        if count or time.monotonic() - self._counted_at > STATISTICS_EVERY_S:
            changes["numbers"] = desk.statistics()
            self._counted_at = time.monotonic()
        return changes

    def _look_at_the_weather(self) -> None:
        if time.monotonic() - self._weather_at > WEATHER_EVERY_S:
            with self.store.reading() as session:
                found = floods.storm(session, self.settings.storm_multiple, utc_now())
            self._storm, self._weather_at = found.told() if found else "", time.monotonic()

    def _sorted(self) -> str:
        """The order of the queue, which in a storm has a sample of each campaign first."""
        return "sample" if self._storm and self._order == "risk" else self._order

    def _page(self, desk: Desk, until: dt.datetime | None) -> dict[str, Any]:
        if not self._case_id:
            return {}
        try:
            inside = cases.inside(self.store, self._case_id, analyst=desk.analyst)
        except InputError:  # all of it was answered
            return {"case_id": self._case_id, "done": True}
        with self.store.reading() as session:
            told = page(session, inside, self._this)
            newest = session.value(f"SELECT ({NEWEST})")
        self._this = told["this"]
        told |= {"case_id": self._case_id, "done": not told["n_open"], "until": epoch_ms(until)}
        later = newest + dt.timedelta(days=SNOOZE_DAYS)
        return told | {"snooze_until": f"{later:%Y-%m-%d}"}

    def _show(self, changes: _Changes) -> None:
        for name, value in changes.items():
            new = value | {"tick": self._ticks} if name == "told" else value
            if getattr(self.page, name) != new:
                setattr(self.page, name, new)

    # ---- messages and the loop

    def _heard(self, _: object, content: Mapping[str, Any], __: object) -> None:
        self._heard_at = time.monotonic()
        if not isinstance(content, Mapping):
            return
        loop = asyncio.get_running_loop()
        if content.get("do") == "beat":
            self._visible = bool(content.get("visible"))
            if self._loop is None or self._loop.done():
                self._loop = loop.create_task(self._run())
            return
        task = loop.create_task(self._in_turn(lambda: self._done(content)))
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)

    async def _in_turn(self, work: Callable[[], _Changes]) -> None:
        async with self._one_at_a_time:
            self._show(await asyncio.to_thread(work))

    async def _run(self) -> None:
        while time.monotonic() - self._heard_at < self.silent_s:
            began = time.monotonic()
            if self._visible:
                await self._in_turn(self._read)
            # A long queue takes long to read: ten analysts must not be a burden.
            took = time.monotonic() - began
            await asyncio.sleep(max(self.interval_s, min(10 * took, LONGEST_PAUSE_S)))
        if self.desk is not None:
            await asyncio.to_thread(self._leave, self.desk)
        self.on_left()

    def _leave(self, desk: Desk) -> None:
        """Let others have the case; what was answered is settled by the next who works here."""
        try:
            desk.release()
        except AegisError:
            return  # the claim ends by itself


def _wrong(e: Exception) -> dict[str, Any]:
    text = str(e) if isinstance(e, AegisError) else f"This did not work ({type(e).__name__})."
    return {"text": text, "tone": "wrong"}


def _text(content: Mapping[str, Any], name: str, most: int, *, empty: bool = False) -> str:
    """A text of a message.

    Raises
    ------
    InputError : It is no text, too long, or missing.
    """
    given = content.get(name, "")
    if not isinstance(given, str) or len(given) > most or not (given.strip() or empty):
        raise InputError(f"{name} must be a text of at most {most:,} letters.")
    return given


def _said(case: dict[str, Any]) -> dict[str, Any]:
    """A case of the queue in values that JSON has."""
    times = ("first_ts", "last_ts", "oldest", "until")
    told = {k: epoch_ms(v) if k in times else v for k, v in case.items()}
    return told | {"digits": digits(case["currency"])}


def show(
    store: Store,
    settings: Settings,
    *,
    live: bool = True,
    analyst: str = "",
    run_id: str = "",
    now: str = "",
) -> Page | None:
    """What `notebooks/05_review.ipynb` shows: the page, or else a report of the queue.

    Parameters
    ----------
    analyst : who answers; "" means the one of the settings, or that the page asks.
    run_id : of a run, which always makes the report; the ledger is told what it saw.
    now : the moment of the report; "" means that it is made.

    Raises
    ------
    InputError : `now` is no moment.
    """
    if run_id or not live:
        try:
            moment = dt.datetime.fromisoformat(now) if now else None
        except ValueError:
            raise InputError(f"now must be a time such as 2026-04-01T08:00, not {now!r}.") from None
        from aegis_core.runs.execution import record_data
        from aegis_core.views.dashboard.report import queue

        record_data(store, run_id, queue(store, now=moment))
        return None
    from aegis_core.views.dashboard.app import for_one_page

    who = analyst or settings.analyst
    review = Review(store, settings, named(who) if who else "", on_left=for_one_page())
    review.refresh()
    return review.page


def served_page(settings: Settings, analyst: str = "") -> launcher.Page:
    """The page as `board.launcher.serve` takes it, with a log-in of its own.

    Raises
    ------
    InputError : The token of the settings is too short, or the analyst's name is none.
    """
    token = settings.review_token.get_secret_value() or secrets.token_urlsafe(24)
    if len(token) < 16:
        raise InputError("The token is too short to be safe; use 16 characters or more.")
    who = analyst or settings.analyst
    named_ = {"AEGIS_ANALYST": named(who)} if who else {}
    return launcher.Page("Review", NOTEBOOK, token, named_)
