"""`holdfast state RUN[@SEQ]`: the fold of a run's events, at its end or at any of them."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from holdfast.cli.shell import Shell, command, find_event
from holdfast.cli.text import clean, clock, iso, payload_value, withheld_notes
from holdfast.core.state import fold

__all__ = ["state_command"]

_TIMES = ("wake_at", "created_at", "updated_at", "retry_at")


@command
async def state_command(
    shell: Shell,
    *,
    at: Annotated[
        str, typer.Argument(metavar="RUN[@SEQ]", help="A run, at its end or at an event.")
    ],
) -> None:
    """Show the fold of a run at an event.

    The agent's own durable state, as the last finished turn left it, stands under "state".
    """
    async with shell.app() as app:
        run, seq = await find_event(app, at)
        events = await app.store.read(run, until=seq)
    state = fold(events)
    facts: dict[str, Any] = asdict(state)
    for line in withheld_notes(events):
        shell.note(f"note: {line}")
    if state.state_seq:
        facts["state"] = (payload_value(events[state.state_seq - 1]) or {}).get("state")
    if shell.as_json:
        shell.emit(facts | {name: iso(facts[name]) for name in _TIMES if name in facts})
        return
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if name == "open_steps":
            continue
        text = clock(value) if name in _TIMES and value else str(value)
        table.add_row(Text(name, style="dim"), Text(clean(text)))
    for step in facts["open_steps"].values():
        stage = f"{step['effect']}, {step['stage']}, attempt {step['attempt']}, #{step['seq']}"
        table.add_row(Text("open step", style="dim"), Text(clean(f"{step['key']}: {stage}")))
    shell.show(table)
