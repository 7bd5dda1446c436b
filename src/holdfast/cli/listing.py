"""`holdfast ls`: the runs of a store, newest first, and what each waits for."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.text import Text

from holdfast.cli.shell import Shell, command
from holdfast.cli.text import Grid, ago, clean, clock, iso, status_text
from holdfast.core import events as ev
from holdfast.core.state import ENDED, RunRow
from holdfast.errors import UsageError
from holdfast.ports import Pause, Store

__all__ = ["STATUSES", "each_row", "ls_command", "parked_for", "paused_by"]

STATUSES = (
    "pending",
    "running",
    "waiting",
    "idle",
    "in_doubt",
    "diverged",
    "succeeded",
    "failed",
    "cancelled",
)
_PAGE = 500


@command
async def ls_command(
    shell: Shell,
    *,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Only these; may be repeated.")
    ] = None,
    agent: Annotated[
        list[str] | None, typer.Option(metavar="AGENT", help="Only runs of these agents.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many at most.")] = None,
    every: Annotated[bool, typer.Option("--all", help="As many as there are.")] = False,
) -> None:
    """List runs, newest first.

    Shows 20 of them unless told otherwise; with --json, all of them, one object a line.
    """
    wanted = [name.replace(" ", "_").replace("-", "_") for name in status or ()]
    for name in wanted:
        if name not in STATUSES:
            raise UsageError(f"--status {name!r} is no status; there are {', '.join(STATUSES)}")
    agents = [f"agent:{name.removeprefix('agent:')}" for name in agent or ()]
    most = 0 if every else limit or (0 if shell.as_json else 20)
    table = Grid("run", "agent", "status", "turn", "events", "age", "waits for", crop="waits for")
    now = time.time_ns() // 1000
    more = False
    async with shell.app() as app:
        pauses = await app.store.pauses()
        shown = 0
        page = min(most + 1, _PAGE) if most else _PAGE  # one more tells whether there are more
        async for row in each_row(app.store, status=wanted, agents=agents, page=page):
            if most and shown == most:
                more = True
                break
            shown += 1
            waits = await parked_for(app.store, row)
            pause = paused_by(row, pauses)
            if shell.as_json:
                shell.emit(_as_json(row, waits, pause), line=True)
            else:
                table.add_row(*_cells(row, waits, now, pause))
    if shell.as_json:
        return
    if not shown:
        shell.note("no runs" if not wanted and not agents else "no such runs")
        return
    shell.show(table)
    if more:
        shell.note(f"the {shown} newest are shown; --all shows every run")


async def each_row(
    store: Store,
    *,
    status: list[str] | None = None,
    agents: list[str] | None = None,
    page: int = _PAGE,
) -> AsyncIterator[RunRow]:
    """Yield rows, newest first, page by page."""
    after: tuple[int, str] | None = None
    while rows := await store.rows(
        status=status or (), agents=agents or (), after=after, limit=page
    ):
        for row in rows:
            yield row
        after = (rows[-1].created_at, rows[-1].run)


async def parked_for(store: Store, row: RunRow) -> str:
    """Return what a parked run waits for: topics, steps and children, separated by commas."""
    if row.status not in ("waiting", "in_doubt", "diverged"):
        return ""
    last = await store.read(row.run, after=row.seq - 1, until=row.seq)
    return last[0].body.waits_for if last and isinstance(last[0].body, ev.RunParked) else ""


def paused_by(row: RunRow, pauses: list[Pause]) -> Pause | None:
    """Return what holds a run back, if anything does."""
    places = {("run", row.run), ("queue", row.queue), ("agent", row.agent)}
    return next((pause for pause in pauses if (pause.kind, pause.name) in places), None)


def _as_json(row: RunRow, waits: str, pause: Pause | None) -> dict[str, Any]:
    return {
        "run": row.run,
        "agent": row.agent.removeprefix("agent:"),
        "status": row.status,
        "turn": row.turn,
        "events": row.seq,
        "created": iso(row.created_at),
        "updated": iso(row.updated_at),
        "wake_at": iso(row.wake_at),
        "waits_for": waits,
        "parent": row.parent,
        "queue": row.queue,
        "priority": row.priority,
        "key": row.key,
        "paused_by": pause.by if pause else "",
    }


def _cells(row: RunRow, waits: str, now: int, pause: Pause | None) -> list[str | Text]:
    if row.status == "diverged":
        waits = "a person: the code asks for something else"
    elif row.status == "idle":
        waits = "a message"
    elif row.status in ("pending", "running"):
        waits = "a worker, unless one has it"
    if pause is not None and row.status not in ENDED:
        waits = f"{pause.kind} paused by {pause.by}" + (f"; {waits}" if waits else "")
    waits = ", until ".join(filter(None, (waits, clock(row.wake_at) if row.wake_at else "")))
    return [
        Text(clean(row.run)),
        Text(clean(row.agent.removeprefix("agent:"))),
        status_text(row.status),
        str(row.turn),
        str(row.seq),
        ago(now - row.created_at),
        Text(clean(waits)),
    ]
