"""`holdfast schedules FILE…`: what is started by the clock, when next, and what came of it."""

import time
from typing import Annotated

import typer
from rich.text import Text

from holdfast.cli.loading import agents_of, load, schedules_of
from holdfast.cli.shell import Shell, command
from holdfast.cli.text import Grid, clean, clock, iso
from holdfast.core.specs import agent_spec

__all__ = ["schedules_command"]

_LOOKED_AT = 2
"""The run that is ahead, and the one before it."""


@command
async def schedules_command(
    shell: Shell,
    *,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Python files or modules.")],
) -> None:
    """List the schedules in these files.

    When each is due next, and what came of the latest run. The workers that have its file keep a
    schedule: `holdfast worker FILE`.
    """
    codes = [load(file) for file in files]
    now = time.time_ns() // 1000
    table = Grid("schedule", "agent", "cron", "zone", "next", "latest run", "status")
    found = schedules_of(codes)
    async with shell.app(agents_of(codes)) as app:
        for one in found:
            rows = await app.store.rows(prefix=f"{one.name}@", limit=_LOOKED_AT)
            begun = [row for row in rows if 0 < one.tick_of(row.run) <= now]
            latest = begun[0] if begun else None
            agent = agent_spec(one.agent).name
            if shell.as_json:
                facts: dict[str, str | None] = {
                    "schedule": one.name,
                    "agent": agent,
                    "cron": one.cron,
                    "tz": one.tz,
                }
                facts |= {"next": iso(one.after(now)), "run": latest.run if latest else ""}
                shell.emit(facts | {"status": latest.status if latest else ""}, line=True)
                continue
            cells = (one.name, agent, one.cron, one.tz, clock(one.after(now)))
            last = (latest.run, latest.status) if latest else ("", "")
            table.add_row(*(Text(clean(cell)) for cell in (*cells, *last)))
    if not shell.as_json and found:
        shell.show(table)
    elif not found:
        shell.note("no schedules. Hint: hf.schedule(…) at the top of a module")
