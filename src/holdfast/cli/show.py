"""`holdfast show RUN`: the five questions about a run, answered on one screen."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from holdfast.cli.answers import Answers, answer
from holdfast.cli.gist import gist
from holdfast.cli.listing import paused_by
from holdfast.cli.shell import RunArgument, Shell, command
from holdfast.cli.text import (
    Grid,
    ago,
    clean,
    count,
    iso,
    local,
    shorten,
    status_text,
    withheld_notes,
)
from holdfast.ports import Store

__all__ = ["show_command"]

SHOWN_MAX = 25
"""Lines of each answer that people see; --json gives all."""


@command
async def show_command(shell: Shell, *, run: RunArgument) -> None:
    """Show what a run has done, will do, is bound by, is, and why.

    The five questions: completed actions, pending tasks, active constraints, identity, and the
    lineage of its decisions.
    """
    async with shell.app() as app:
        found = await app.client.find(run)
        events = await app.store.read(found)
        pause = paused_by(await app.client.row(found), await app.store.pauses())
        answers = answer(events, await app.store.unread(found), store=app.store.url)
        held = asdict(pause) if pause else None
        answers.identity.update(await _lease(app.store, found))
    if shell.as_json:
        facts = {"run": found, "status": answers.identity["status"], "paused": held}
        shell.emit(facts | asdict(answers))
        return
    age = ago(time.time_ns() // 1000 - events[-1].at)
    shell.show(_title(answers, age))
    for line in withheld_notes(events):
        shell.show(Text(line, style="magenta"))
    if pause is not None:
        shell.show(Text(clean(f"{pause.kind} {pause.name!r} is paused by {pause.by}"), "yellow"))
    for heading, parts in (
        (f"Completed: {count(len(answers.completed), 'action')}", _completed(answers)),
        ("Pending", _pending(shell, answers, found)),
        ("Constraints", _constraints(answers)),
        ("Identity", _identity(answers)),
        ("Lineage", _lineage(answers)),
    ):
        shell.show(Text(f"\n{heading}", style="bold"), *parts)


async def _lease(store: Store, run: str) -> dict[str, Any]:
    """Return who carries the run on now, and how long its lease holds; empty when nobody does."""
    for worker in await store.workers(now=time.time_ns() // 1000):
        if worker.runs and any(c.row.run == run for c in await store.held(worker.worker)):
            about = json.loads(worker.about or "{}")
            where = " ".join(str(about[name]) for name in ("host", "pid") if name in about)
            return {"worker": worker.worker, "where": where, "lease_until": iso(worker.expires_at)}
    return {}


def _title(answers: Answers, age: str) -> Text:
    who = answers.identity
    line = Text(clean(who["run"]), style="bold")
    line.append(f"  agent {clean(who['agent'].removeprefix('agent:'))}  ", style="not bold")
    line.append_text(status_text(who["status"]))
    counts = f"{count(who['turn'], 'turn')}, {count(who['events'], 'event')}"
    return line.append(f"  {counts}, the last {age} ago", style="not bold dim")


def _said(value: Any, chars: int = 100) -> Text:
    return Text("" if value is None else shorten(gist(value), chars), style="green")


def _last(lines: Sequence[Any], what: str) -> tuple[list[RenderableType], Sequence[Any]]:
    hidden = len(lines) - SHOWN_MAX
    if hidden <= 0:
        return [], lines
    note = f"… {hidden} earlier {what}; --json and holdfast events have all"
    return [Text(note, style="dim")], lines[-SHOWN_MAX:]


def _completed(answers: Answers) -> list[RenderableType]:
    if not answers.completed:
        return [Text("nothing yet", style="dim")]
    before, shown = _last(answers.completed, "ones")
    turns = answers.identity["turn"] > 1
    columns = [*(["turn"] if turns else []), "event", "action", "effect", "attempts", "outcome"]
    table = Grid(*columns, "value", crop="value")
    for action in shown:
        outcome = action["outcome"] + (f" via {action['via']}" if "via" in action else "")
        cells: list[str | Text] = [
            f"#{action['seq']}",
            Text(clean(action["key"])),
            Text(clean(action["effect"])),
            str(action["attempts"]),
            Text(outcome + (", void" if action.get("void") else "")),
            _said(action.get("value", action["arguments"])),
        ]
        table.add_row(*([str(action["turn"])] if turns else []), *cells)
    return [*before, table]


def _pending(shell: Shell, answers: Answers, run: str) -> list[RenderableType]:
    todo = answers.pending
    lines: list[RenderableType] = []
    for step in todo["steps"]:
        line = Text(f"{clean(step['key'])} ({step['effect']}) ", style="")
        line.append(_stage(step), style="yellow" if step["stage"] == "doubted" else "")
        line.append("  ").append_text(_said(step["arguments"]))
        lines.append(line)
        if step["stage"] == "doubted":
            lines += _settle(shell, step, run)
    for child in todo["children"]:
        lines.append(Text(f"{clean(child['key'])}: the run {clean(child['run'])} is to end"))
    for asked in todo["questions"]:
        lines.append(Text(f"a person is asked: {clean(str(asked.get('question', '')))}"))
        way = shell.suggest("message", run, "ANSWER", "--topic", asked["topic"])
        lines.append(Text(f"  answer: {way}", style="dim"))
    shown = {step["key"] for step in todo["steps"]}
    waits = [name for name in todo["waits_for"].split(", ") if name and name not in shown]
    if waits or todo["wake_at"]:
        until = f" until {local(todo['wake_at'])}" if todo["wake_at"] else ""
        lines.append(Text(f"waits for {clean(', '.join(waits)) or 'a timer'}{until}"))
    for message in todo["unread"]:
        line = Text(f"unread message {clean(message['id'])}")
        line.append(f" topic {clean(message['topic'])}" if message["topic"] else "")
        line.append(f" from {clean(message['from'])}  ")
        lines.append(line.append(shorten(message["payload"], 100), style="green"))
    return lines or [Text("nothing", style="dim")]


def _stage(step: dict[str, Any]) -> str:
    match step["stage"]:
        case "started":
            return f"attempt {step['attempt']} has no outcome yet"
        case "failed":
            return f"attempt {step['attempt']} failed, the next is due {local(step['retry_at'])}"
        case "doubted":
            return f"attempt {step['attempt']} is in doubt since {local(step['since'])}"
        case _:
            return "did not happen, another attempt may be made"


def _settle(shell: Shell, step: dict[str, Any], run: str) -> list[RenderableType]:
    error = step["error"]
    why = f"{error['type']}: {error['message']}" if error else "its worker was lost"
    settle = ("resolve", run, step["key"])
    return [
        Text(f"  because {clean(why)}", style="dim"),
        Text(f"  settle: {shell.suggest(*settle, '--happened', 'OUTCOME')}", style="dim"),
        Text(f"      or: {shell.suggest(*settle, '--did-not')}", style="dim"),
    ]


def _constraints(answers: Answers) -> list[RenderableType]:
    if not answers.constraints:
        return [Text("none", style="dim")]
    table = Table.grid(padding=(0, 2))
    for limit in answers.constraints:
        seq = f"#{limit['seq']}" if "seq" in limit else ""
        table.add_row(Text(clean(limit["what"])), Text(clean(limit["why"])), Text(seq, style="dim"))
    return [table]


def _identity(answers: Answers) -> list[RenderableType]:
    table = Table.grid(padding=(0, 2))
    for name, value in answers.identity.items():
        if name in ("run", "status", "turn", "events", "withheld") or value in ("", None):
            continue
        said = local(value) if name in ("created", "updated", "lease_until") else str(value)
        text = _said(value) if name == "input" else Text(clean(said))
        table.add_row(Text(name.replace("_", " "), style="dim"), text)
    return [table]


def _lineage(answers: Answers) -> list[RenderableType]:
    if not answers.lineage:
        return [Text("no decisions yet", style="dim")]
    before, shown = _last(answers.lineage, "decisions")
    table = Table.grid(padding=(0, 2))
    for decision in shown:
        asked = ", ".join(
            a["what"].removeprefix("step.started ") + (" void" if "void" in a else "")
            for a in decision["asked"]
        )
        because = Text(clean(decision["because"]))
        if "by" in decision:
            because.append(f" by {clean(decision['by'])}", style="yellow")
        table.add_row(
            Text(f"#{decision['seq']}", style="dim"),
            because,
            _said(decision.get("learnt"), 50),
            Text(f"→ {clean(asked)}" if asked else ""),
        )
    return [*before, table, Text("holdfast why RUN@SEQ follows one back", style="dim")]
