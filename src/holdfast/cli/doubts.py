"""`holdfast doubts`: the inbox of what only a person can settle."""

from typing import Any

from rich.text import Text

from holdfast.app import App
from holdfast.cli.answers import open_steps
from holdfast.cli.listing import each_row
from holdfast.cli.shell import Shell, command
from holdfast.cli.text import clean, excerpt, local
from holdfast.core.codec import json_bytes

__all__ = ["doubts_command", "doubts_of"]


@command
async def doubts_command(shell: Shell) -> None:
    """List the steps in doubt, which a person must settle.

    A step is in doubt when its worker was lost, or its body failed, after the intent and before the
    outcome, and nothing but a person can find out whether it happened.
    """
    async with shell.app() as app:
        found = [
            doubt
            async for row in each_row(app.store, status=["in_doubt"])
            for doubt in await doubts_of(shell, app, row.run)
        ]
    if shell.as_json:
        shell.emit(found)
        return
    if not found:
        shell.show("no doubts")
    for doubt in found:
        shell.show(*_lines(doubt))


async def doubts_of(shell: Shell, app: App, run: str) -> list[dict[str, Any]]:
    """Return the steps of a run that are in doubt, and how to settle each."""
    doubts = []
    unread = await app.store.unread(run)
    for step in open_steps(await app.store.read(run)):
        if step["stage"] == "doubted":
            settle = ("resolve", run, step["key"])
            doubts.append(
                {
                    "run": run,
                    "step": step["key"],
                    "effect": step["effect"],
                    "attempt": step["attempt"],
                    "since": step["since"],
                    "arguments": step["arguments"],
                    "error": step["error"],
                    "resolve": [
                        shell.suggest(*settle, "--happened", "OUTCOME"),
                        shell.suggest(*settle, "--did-not"),
                    ],
                    "answered": any(m.message.topic == "$resolve" for m in unread),
                }
            )
    return doubts


def _lines(doubt: dict[str, Any]) -> list[Text]:
    title = Text(f"{clean(doubt['run'])}  {clean(doubt['step'])}", style="bold")
    title.append(
        f"  {doubt['effect']}, attempt {doubt['attempt']}, since {local(doubt['since'])}", "dim"
    )
    error = doubt["error"]
    why = f"{error['type']}: {error['message']}" if error else "its worker was lost"
    lines = [title, Text(f"  arguments  {excerpt(json_bytes(doubt['arguments']), 200)}")]
    lines.append(Text(f"  why        {clean(why)}"))
    if doubt["answered"]:
        lines.append(Text("  answered; a worker is to take the answer in", style="yellow"))
    for n, way in enumerate(doubt["resolve"]):
        lines.append(Text(f"  {'or:' if n else 'settle:':<9}  {way}", style="dim"))
    return lines
