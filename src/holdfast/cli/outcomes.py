"""What came of a run, for `holdfast run`: its result, or why it is parked and how to go on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.app import App
from holdfast.cli.answers import answer
from holdfast.cli.doubts import doubts_of
from holdfast.cli.replay import difference_lines, in_callback, replay
from holdfast.cli.shell import DONE, FAILED, PARKED, Shell
from holdfast.cli.text import clean, clock, excerpt, iso, payload_value, withheld_notes
from holdfast.core import events as ev
from holdfast.core.codec import json_bytes
from holdfast.core.events import Event
from holdfast.core.state import ENDED, RunRow

__all__ = ["Outcome", "outcome_of"]


@dataclass
class Outcome:
    """What came of a run, as JSON, as lines for people, and as an exit code."""

    facts: dict[str, Any]
    code: int
    lines: list[str] = field(default_factory=list)
    settled: bool = True
    """Whether the run has ended, or waits for what no command that carries on can bring."""


async def outcome_of(shell: Shell, app: App, run: str) -> Outcome:
    """Tell what came of a run."""
    row = await app.client.row(run)
    agent = row.agent.removeprefix("agent:")
    facts: dict[str, Any] = {"run": run, "agent": agent, "status": row.status}
    match row.status:
        case "in_doubt":
            return await _in_doubt(shell, app, row, facts)
        case "diverged":
            return await _diverged(shell, app, row, facts)
        case "waiting":
            return await _waiting(shell, app, row, facts)
        case "idle":
            return _turn_over(shell, await app.store.read(run, after=row.turn_seq - 1), facts)
        case status if status in ENDED:
            return _ended((await app.store.read(run, after=row.seq - 1))[0], facts)
        case _:
            line = f"run {run!r} is {row.status} after event {row.seq}"
            return Outcome(facts, PARKED, [line], settled=False)


def _ended(last: Event, facts: dict[str, Any]) -> Outcome:
    value = payload_value(last)
    if why := last.withheld:
        lines = withheld_notes([last])
        return Outcome(facts | {"withheld": why}, DONE, [f"run {last.run!r}: {lines[0]}"])
    if isinstance(last.body, ev.RunSucceeded):
        return Outcome(facts | {"result": value}, DONE)
    return _failed(facts, value, f"run {last.run!r}")


def _failed(facts: dict[str, Any], error: dict[str, Any] | None, what: str) -> Outcome:
    status = facts["status"] if facts["status"] != "idle" else "failed"
    said = f": {error['type']}: {error['message']}" if error and status != "cancelled" else ""
    line = f"{what} {'was cancelled' if status == 'cancelled' else 'failed'}{said}"
    return Outcome(facts | {"error": error}, FAILED, [line])


def _turn_over(shell: Shell, turn: Sequence[Event], facts: dict[str, Any]) -> Outcome:
    """Tell what came of the last turn of a run that waits for its next message."""
    send = f"{shell.suggest('message', facts['run'], 'JSON')}, then run this again"
    for event in reversed(turn):
        if isinstance(event.body, ev.TurnFinished):
            reply = json.loads(event.payload or b"{}").get("reply")
            facts |= {"turn": event.body.turn, "result": reply}
            return Outcome(facts, DONE, [f"turn {event.body.turn} is over; next: {send}"])
        if isinstance(event.body, ev.TurnFailed):
            facts |= {"turn": event.body.turn}
            what = f"turn {event.body.turn} of run {facts['run']!r}"
            return _failed(facts, payload_value(event), what)
    return Outcome(facts | {"turn": 0}, DONE, [f"it waits for its first message: {send}"])


async def _in_doubt(shell: Shell, app: App, row: RunRow, facts: dict[str, Any]) -> Outcome:
    doubts = await doubts_of(shell, app, row.run)
    lines = [f"run {row.run!r} is in doubt: it is unknown whether these happened"]
    for doubt in doubts:
        error = doubt["error"]
        why = f"{error['type']}: {error['message']}" if error else "its worker was lost"
        arguments = excerpt(json_bytes(doubt["arguments"]), 200)
        lines.append(f"  {doubt['step']} ({doubt['effect']}) {arguments}: {why}")
        lines.append("  find out, then say so: " + "  or  ".join(doubt["resolve"]))
    return Outcome(facts | {"doubts": doubts}, PARKED, lines)


async def _diverged(shell: Shell, app: App, row: RunRow, facts: dict[str, Any]) -> Outcome:
    """Show the difference as the loaded code has it, else as it was recorded."""
    events = await app.store.read(row.run)
    agent = app.agents[row.agent]
    replayed = await in_callback(lambda: replay(agent, events, app.secrets.cleaner))
    lines = [f"run {row.run!r} has diverged: the code asks for something else than its log holds"]
    if replayed.difference is not None:
        shown = difference_lines(row.run, replayed.difference)[1:]
        lines += [line.plain for line in shown]
        facts["difference"] = vars(replayed.difference)
    lines += [
        "three ways out:",
        "  put the old code back, or guard the new path: if hf.version_guard('name'): …",
        f"  accept the code as it is: {shell.suggest('accept', row.run)}",
        f"  give the run up, and start another under a new id: {shell.suggest('cancel', row.run)}",
    ]
    return Outcome(facts, PARKED, lines)


async def _waiting(shell: Shell, app: App, row: RunRow, facts: dict[str, Any]) -> Outcome:
    run = row.run
    events = await app.store.read(run)
    todo = answer(events, await app.store.unread(run), store=app.store.url).pending
    until = f" until {clock(row.wake_at)}" if row.wake_at else ""
    what = todo["waits_for"] or ("a timer" if row.wake_at else "a message")
    lines = [f"run {run!r} waits for {clean(what)}{until}"]
    lines += [f"  it asks: {clean(str(q.get('question', '')))}" for q in todo["questions"]]
    topics = set(filter(None, todo["waits_for"].split(", ")))
    for child in todo["children"]:
        topics.discard(child["run"])
        found = await app.store.row(child["run"])
        if found is not None and found.agent not in app.agents:
            name = found.agent.removeprefix("agent:")
            lines.append(
                f"  its child {child['run']!r} is of agent {name!r}, which is not loaded here."
                f" Hint: import it in the file, or holdfast worker FILE with its file"
            )
        elif found is not None:
            lines.append(f"  its child {child['run']!r} is {found.status.replace('_', ' ')}")
    for topic in sorted(topics):
        lines.append(f"  bring it: {shell.suggest('message', run, 'JSON', '--topic', topic)}")
    facts |= {"waits_for": todo["waits_for"], "wake_at": iso(row.wake_at)}
    facts |= {"questions": todo["questions"], "children": todo["children"]}
    return Outcome(facts, PARKED, lines)
