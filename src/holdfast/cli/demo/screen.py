"""What people see of the demo: how it goes while it goes, and how it ended.

``progress`` is drawn several times a second and fits a small terminal; ``closing`` is printed once:
a row per ticket, the totals, both desks side by side, and what to try next.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from holdfast.cli.demo.accounts import Line, Side
from holdfast.cli.demo.supervisor import Demo, Report
from holdfast.cli.text import count

__all__ = ["closing", "progress", "watching"]

FRAMES_PER_S = 6
SHOWN_MAX = 9
KIND_FROM_WIDTH = 110
KILLED_FROM_WIDTH = 84


@contextlib.asynccontextmanager
async def watching(demo: Demo) -> AsyncIterator[None]:
    """Draw the progress of a demo on stderr, if that is a terminal, for the length of a block."""
    if not sys.stderr.isatty():
        yield
        return
    console = Console(stderr=True, highlight=False)
    with Live(progress(demo), console=console, auto_refresh=False, transient=True) as live:

        async def draw() -> None:
            while True:
                live.update(progress(demo), refresh=True)
                await asyncio.sleep(1 / FRAMES_PER_S)

        drawing = asyncio.create_task(draw())
        try:
            yield
        finally:
            drawing.cancel()


def progress(demo: Demo) -> RenderableType:
    """Return how a demo is going."""
    tickets = len(demo.tickets)
    head = Text.assemble(
        ("holdfast demo", "bold"),
        (f"  {count(tickets, 'ticket')}, seed {demo.seed}, {demo.model}", "dim"),
        (f"  {time.monotonic() - demo.begun:.0f} s", "dim"),
    )
    bars = Table.grid(padding=(0, 2))
    for name, desk in (("on holdfast", demo.desk), ("plain loop", demo.naive)):
        side = desk.side if desk is not None else Side()
        finished = len(side.finished)
        bars.add_row(
            name,
            ProgressBar(total=tickets, completed=finished, width=20),
            f"{finished} of {tickets}",
            _struck(side),
        )
    lines = [
        Text.assemble((f"{at:5.1f} s  ", "dim"), (f"{ticket:<8}", "cyan"), text, no_wrap=True)
        for at, ticket, text in demo.happenings[-SHOWN_MAX:]
    ]
    return Group(head, bars, Text(), *lines)


def _struck(side: Side) -> Text:
    text = Text(f"killed {count(side.kills, 'time')}")
    if side.kills_in_window:
        text.append(f", {side.kills_in_window} in mid-deed", "yellow")
    return text


def closing(report: Report, commands: Sequence[str], width: int) -> list[RenderableType]:
    """Return what came of a demo, for a terminal of so many columns."""
    facts = report.as_json()
    return [
        _table(report, width),
        Text(),
        _verdict("on holdfast", facts),
        _verdict("plain loop ", facts["naive"]),
        Text(
            "Deeds are counted in the shops' own ledgers. Doubts are reconciled where the shop can"
            " be asked about a deed, and else resolved by the operator; replayed are steps whose"
            " outcome came from the log.",
            "dim",
        ),
        Text(),
        Text(f"All of it is in {report.folder}. Try:", "bold"),
        *(f"  {command}" for command in commands),  # as text, so that no line is broken in two
        Text(
            "Change a line of the desk.py there and replay again: the first request that differs"
            " is shown.",
            "dim",
        ),
    ]


_Column = tuple[str, str]
"""A heading and the attribute of `Line` below it."""

_DESK: tuple[_Column, ...] = (
    ("killed", "kills"),
    ("wanted", "actions_wanted"),
    ("done", "actions_done"),
    ("twice", "twice"),
    ("miss-\ning", "missing"),
    ("recon-\nciled", "doubts_reconciled"),
    ("re-\nsolved", "doubts_resolved"),
    ("model\ncalls", "model_calls_paid"),
    ("re-\nplayed", "steps_replayed"),
)
_NAIVE: tuple[_Column, ...] = (
    ("plain:\ntwice", "twice"),
    ("miss-\ning", "missing"),
    ("model\ncalls", "model_calls_paid"),
)


def _table(report: Report, width: int) -> Table:
    gap = 2 if width >= KIND_FROM_WIDTH else 1
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, gap, 0, 0))
    table.add_column("ticket", no_wrap=True)
    if width >= KIND_FROM_WIDTH:
        table.add_column("kind", no_wrap=True)
    columns = _DESK if width >= KILLED_FROM_WIDTH else _DESK[1:]
    for heading, _ in (*columns, *_NAIVE):
        table.add_column(heading, justify="right", no_wrap=True)
    plain = {line.ticket: line for line in report.naive.lines}
    for line in report.desk.lines:
        beside = plain.pop(line.ticket, None)
        kind = [line.kind] if width >= KIND_FROM_WIDTH else []
        table.add_row(line.ticket, *kind, *_cells(line, columns), *_cells(beside, _NAIVE))
    for line in plain.values():  # deeds for orders that no ticket is about
        kind = [""] if width >= KIND_FROM_WIDTH else []
        table.add_row(line.ticket, *kind, *_cells(None, columns), *_cells(line, _NAIVE))
    totals = report.as_json()
    table.add_section()
    table.add_row(
        Text("total", "bold"),
        *([""] if width >= KIND_FROM_WIDTH else []),
        *(_cell(name, totals[name], bold=True) for _, name in columns),
        *(_cell(name, totals["naive"][name], bold=True) for _, name in _NAIVE),
    )
    return table


def _cells(line: Line | None, columns: Sequence[_Column]) -> list[Text]:
    return [_cell(name, getattr(line, name) if line else None) for _, name in columns]


def _cell(name: str, value: int | None, *, bold: bool = False) -> Text:
    style = "bold " if bold else ""
    if name in ("twice", "missing"):
        style += "red" if value else "green"
    elif not value:
        style += "dim"
    return Text("-" if value is None else str(value), style)


def _verdict(name: str, facts: Mapping[str, Any]) -> Table:
    """Return one desk's totals in words."""
    wrong = [
        f"{facts[kind]} {words}"
        for kind, words in (
            ("twice", "done twice"),
            ("missing", "missing"),
            ("stray", "wanted by nobody"),
        )
        if facts[kind]
    ]
    verdict = Text(f"{facts['actions_done']} of {facts['actions_wanted']} actions done, ")
    verdict.append(", ".join(wrong) or "each exactly once", "bold red" if wrong else "bold green")
    took = f"; {facts['seconds']:.0f} s"
    if facts["model_calls_paid"] is not None:
        calls = (
            f"{facts['model_calls_paid']} model calls paid, {facts['model_calls_needed']} needed"
        )
        took = f"; {calls}{took}"
    blows = f"killed {count(facts['kills'], 'time')}"
    blows += f", {facts['kills_in_doubt_window']} of them between a deed and its record"
    if facts["zombies"]:
        blows += f"; {count(facts['zombies'], 'zombie')} woke up and could change nothing"
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(name, "bold"), verdict.append(took))
    table.add_row("", Text(blows, "dim"))
    return table
