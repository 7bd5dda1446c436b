"""How things of a log look in a line: times, excerpts, events; as JSON and as text.

Everything here is pure. Nothing that a payload or a name holds can steer a terminal: unprintable
characters are shown by their escapes.
"""

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderResult
from rich.table import Table
from rich.text import Text

from holdfast.cli.gist import gist
from holdfast.core import events as ev
from holdfast.core.events import Cause, Event
from holdfast.runtime.births import ERASED_RUNS

__all__ = [
    "STYLES",
    "Grid",
    "ago",
    "cause_text",
    "clean",
    "clock",
    "count",
    "detail",
    "event_json",
    "excerpt",
    "iso",
    "local",
    "payload_value",
    "shorten",
    "status_text",
    "subject",
    "withheld_facts",
    "withheld_notes",
]

STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "red",
    "in_doubt": "bold yellow",
    "diverged": "bold yellow",
    "waiting": "cyan",
    "idle": "cyan",
    "running": "blue",
    "pending": "blue",
}

_EXCHANGES = (b'{"status":', b'{"method":')
"""How payloads begin of which the gist is better than the beginning."""
_PARSED_MAX = 1_000_000

_GAP, _CROPPED_MIN = "  ", 8
"""What stands between columns, and how narrow the one may become that gives way."""
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def clean(text: str) -> str:
    """Return text on one line, in which every unprintable character is shown by its escape."""
    if text.isprintable():
        return text
    parts = (
        c if c.isprintable() else " " if c in "\n\t" else c.encode("unicode_escape").decode()
        for c in text
    )
    return "".join(parts)


def excerpt(payload: bytes | None, chars: int = 80) -> str:
    """Return the beginning of a payload in one line, empty when there is none."""
    if payload is None:
        return ""
    if payload.startswith(_EXCHANGES) and len(payload) <= _PARSED_MAX:
        return shorten(gist(json.loads(payload)), chars)
    return shorten(payload[: chars * 8].decode("utf-8", "replace"), chars)


def shorten(text: str, chars: int) -> str:
    """Return the beginning of a text in one line."""
    text = clean(text[: chars * 8])
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def payload_value(event: Event) -> Any:
    """Return what an event's payload holds, None when it has none or it is withheld."""
    return None if event.payload is None else json.loads(event.payload)


def withheld_facts(events: Sequence[Event]) -> dict[str, Any]:
    """Return how many payloads are withheld, and why; empty when none is."""
    gone = [event for event in events if event.withheld]
    if not gone:
        return {}
    why = Counter(event.withheld for event in gone)
    subjects = sorted({event.sub for event in gone if event.withheld != "collected"})
    facts: dict[str, Any] = {name: why[name] for name in ("erased", "sealed", "collected")}
    return facts | {"subjects": subjects, "by": [f"{ERASED_RUNS}{sub}@2" for sub in subjects]}


def withheld_notes(events: Sequence[Event]) -> list[str]:
    """Say in a line each what is erased, what is sealed, and what is collected."""
    facts, notes = withheld_facts(events), []
    if facts.get("erased"):
        by = ", ".join(facts["by"])
        notes.append(f"{count(facts['erased'], 'payload')} of this run erased by event {by}")
    if facts.get("sealed"):
        subjects = ", ".join(map(repr, facts["subjects"]))
        notes.append(
            f"{count(facts['sealed'], 'payload')} of this run sealed: the vault with the key of"
            f" {subjects} is not at hand. Hint: HOLDFAST_VAULT"
        )
    if facts.get("collected"):
        payloads = count(facts["collected"], "payload")
        notes.append(f"{payloads} of this run collected, since it ended long ago (holdfast gc)")
    return notes


def iso(at: int) -> str | None:
    """Return µs since the epoch of Unix in ISO 8601, UTC; None for 0, which is never."""
    if not at:
        return None
    return dt.datetime.fromtimestamp(at / 1e6, dt.UTC).isoformat(timespec="milliseconds")


def clock(at: int) -> str:
    """Return µs since the epoch of Unix as local date and time, for people."""
    return dt.datetime.fromtimestamp(at / 1e6).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def local(time: str | None) -> str:
    """Return what ``iso`` has made as local date and time, for people."""
    return clock(int(dt.datetime.fromisoformat(time).timestamp() * 1e6)) if time else "never"


def ago(us: int) -> str:
    """Return a duration in µs in its largest unit, such as ``3 min``."""
    seconds = abs(us) / 1e6
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.1f} s"


def cause_text(cause: tuple[Cause, ...]) -> str:
    """Return an event's causes, such as ``#3 other-run@7``."""
    return " ".join(f"#{c}" if isinstance(c, int) else f"{clean(c[0])}@{c[1]}" for c in cause)


def count(n: int, noun: str) -> str:
    """Return a number of things, such as ``1 turn`` or ``2 turns``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def status_text(status: str) -> Text:
    """Return a run's status in its colour."""
    return Text(status.replace("_", " "), style=STYLES.get(status, ""))


def subject(body: ev.Body) -> str:
    """Return what an event is about: a step key, a timer, a turn …; may be empty."""
    match body:
        case ev.TurnStarted() | ev.TurnFinished() | ev.TurnFailed():
            return f"turn {body.turn}"
        case ev.TimerFired():
            return f"timer {body.timer}"
        case ev.StreamEmitted():
            return f"part {body.n}"
        case ev.VersionMarked():
            return clean(body.name)
        case ev.RunParked():
            return body.status.replace("_", " ")
        case _:
            return clean(getattr(body, "key", ""))


_DETAILS: dict[str, Callable[[Any], list[str]]] = {
    "run.created": lambda b: [f"by {b.parent}"] if b.parent else [],
    "step.started": lambda b: [b.effect, *([f"attempt {b.attempt}"] if b.attempt > 1 else [])],
    "step.emitted": lambda b: [f"part {b.n}"],
    "step.finished": lambda b: [f"via {b.via}"] if b.via != "body" else [],
    "step.failed": lambda b: [
        f"attempt {b.attempt}",
        "final" if b.final else f"again at {clock(b.retry_at)}",
    ],
    "step.doubted": lambda b: [f"attempt {b.attempt}"],
    "step.resolved": lambda b: [b.verdict.replace("_", " "), f"by {b.by}"],
    "message.sent": lambda b: [f"to {b.to}", *([f"topic {b.topic}"] if b.topic else [])],
    "message.received": lambda b: [f"topic {b.topic}"],
    "child.started": lambda b: [f"run {b.child}"],
    "child.finished": lambda b: [f"run {b.child}", *([] if b.ok else ["failed"])],
    "cancel.requested": lambda b: [f"by {b.by}"],
    "run.accepted": lambda b: [f"by {b.by}"],
    "run.parked": lambda b: [
        *([f"for {b.waits_for}"] if b.waits_for else []),
        *([f"until {clock(b.wake_at)}"] if b.wake_at else []),
    ],
    "subject.erased": lambda b: [f"subject {b.subject}"],
    "payloads.collected": lambda b: [f"of runs that ended before {iso(b.before)}"],
    "run.diverged": lambda b: [f"at event {b.at_seq}"],
}


def detail(body: ev.Body) -> str:
    """Return what else an event says, in a few words; may be empty."""
    words = _DETAILS.get(body.type)
    return clean(", ".join(words(body))) if words else ""


def event_json(event: Event, *, payload: bool = True) -> dict[str, Any]:
    """Return an event as JSON: what its leaf says, its hash and, unless refused, its payload."""
    facts: dict[str, Any] = {
        "run": event.run,
        "seq": event.seq,
        "type": event.body.type,
        "at": event.at,
        "time": iso(event.at),
        "epoch": event.epoch,
        "agent": event.agent,
        "cause": [c if isinstance(c, int) else list(c) for c in event.cause],
    }
    facts |= {field.name: getattr(event.body, field.name) for field in fields(event.body)}
    if event.sub:
        facts["sub"] = event.sub
    facts["hash"] = event.hash
    if payload:
        facts["payload"] = payload_value(event)
        if event.withheld:
            facts["withheld"] = event.withheld
    return facts


class Grid:
    """A table without lines, in which the column called ``crop`` gives way.

    It is drawn as lines of text where all of it fits, in a tenth of the time that a table takes.
    """

    def __init__(self, *columns: str, crop: str = "") -> None:
        self._rows: list[list[Text]] = [[Text(name, "dim") for name in columns]]
        self._crop = crop

    def add_row(self, *cells: str | Text) -> None:
        """Add a row, a cell for each column."""
        self._rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        names = [cell.plain for cell in self._rows[0]]
        widths = [_CROPPED_MIN if name == self._crop else 0 for name in names]
        for row in self._rows:
            widths = [max(w, cell.cell_len) for w, cell in zip(widths, row, strict=True)]
        fits = sum(widths) + len(_GAP) * (len(widths) - 1) <= options.max_width
        if fits and not any("\n" in cell.plain for row in self._rows for cell in row):
            yield self._lines(widths)
        else:
            yield self._table(names)

    def _lines(self, widths: Sequence[int]) -> Text:
        lines = Text(no_wrap=True, overflow="ignore", end="\n")
        for n, row in enumerate(self._rows):
            lines.append("\n" if n else "")
            for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
                lines.append(_GAP if i else "").append_text(cell)
                lines.append(" " * (width - cell.cell_len))
        return lines

    def _table(self, names: Sequence[str]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
        for name in names:
            cropped = name == self._crop
            overflow: OverflowMethod = "ellipsis" if cropped else "fold"
            width = _CROPPED_MIN if cropped else None
            table.add_column(name, no_wrap=cropped, overflow=overflow, min_width=width)
        for row in self._rows[1:]:
            table.add_row(*row)
        return table
