"""Steering runs: messages, cancellation, a person's word on a doubt or a divergence.

Each command puts a message into the run's inbox and returns; whoever advances the run takes it in.
So each ends by saying who that is.
"""

import getpass
import os
from typing import Annotated, Any

import typer

from holdfast.app import App
from holdfast.cli.listing import parked_for
from holdfast.cli.loading import files_declaring
from holdfast.cli.shell import RunArgument, Shell, command
from holdfast.cli.values import parse_json, read_value
from holdfast.core.state import ENDED
from holdfast.errors import UsageError

__all__ = [
    "accept_command",
    "cancel_command",
    "message_command",
    "resolve_command",
    "this_person",
]

ByOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="Who says so; goes into the log.", show_default="the user"),
]


def this_person() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@command
async def message_command(
    shell: Shell,
    *,
    run: RunArgument,
    message: Annotated[str, typer.Argument(metavar="JSON", help="The message; @FILE or - too.")],
    topic: Annotated[
        str, typer.Option(metavar="T", help="What the run calls hf.receive with.")
    ] = "",
    id: Annotated[  # noqa: A002 - the word users know
        str, typer.Option("--id", metavar="ID", help="A message sent twice with one id is one.")
    ] = "",
) -> None:
    """Send a message to a run.

    Without a topic it begins the next turn of an agent with state.
    """
    payload = read_value(message, "message")
    async with shell.app(write=True) as app:
        found = await app.client.find(run)
        row = await app.client.row(found)
        waits = await parked_for(app.store, row)
        sent = await app.client.message_encoded(found, payload, topic=topic, message_id=id)
        if row.status == "waiting" and waits and topic not in waits.split(", "):
            shell.note(f"note: the run waits for {waits}; this message has topic {topic!r}")
        await _say(shell, app, {"run": found, "message": sent, "topic": topic}, f"sent {sent}")


@command
async def cancel_command(shell: Shell, *, run: RunArgument, by: ByOption = "") -> None:
    """Ask a run to stop, clean up and undo."""
    async with shell.app(write=True) as app:
        found = await app.client.find(run)
        row = await app.client.row(found)
        if row.status in ENDED:
            said = f"run {found!r} has {row.status} already"
            await _say(shell, app, {"run": found, "cancelled": False}, said)
            return
        who = by or this_person()
        await app.client.cancel(found, by=who)
        said = f"run {found!r} is asked to stop"
        await _say(shell, app, {"run": found, "cancelled": True, "by": who}, said)


@command
async def resolve_command(
    shell: Shell,
    *,
    run: RunArgument,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step's key, such as refund#1.")],
    happened: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="It happened; this is what it returned (@FILE or - too)."
        ),
    ] = None,
    did_not: Annotated[
        bool, typer.Option("--did-not", help="It did not happen; it is attempted again.")
    ] = False,
    by: ByOption = "",
) -> None:
    """Settle a step in doubt by a person's word.

    Say what you have found out: that the effect happened, with its outcome, or that it did not.
    """
    if (happened is None) != did_not:
        raise UsageError("say either --happened JSON or --did-not")
    who = by or this_person()
    said: dict[str, Any] = {"did_not": True}
    if happened is not None:
        said = {"happened": parse_json(read_value(happened, "--happened").decode(), "--happened")}
    async with shell.app(write=True) as app:
        found = await app.client.find(run)
        await app.client.resolve(found, step, **said, by=who)
        verdict = "did not happen" if did_not else "happened"
        facts = {"run": found, "step": step, "verdict": verdict, "by": who}
        await _say(shell, app, facts, f"{step} of run {found!r}: {who} says that it {verdict}")


@command
async def accept_command(shell: Shell, *, run: RunArgument, by: ByOption = "") -> None:
    """Accept a divergence: the code carries on as it is now.

    What was recorded from the diverging event on no longer binds the code; a step that it asks for
    again with the same arguments is not done twice.
    """
    who = by or this_person()
    async with shell.app(write=True) as app:
        found = await app.client.find(run)
        await app.client.accept(found, by=who)
        said = f"run {found!r}: {who} accepts the code as it is now"
        await _say(shell, app, {"run": found, "accepted": True, "by": who}, said)


async def _say(shell: Shell, app: App, facts: dict[str, Any], said: str) -> None:
    """Say what was done and who carries it on."""
    row = await app.client.row(facts["run"])
    if shell.as_json:
        shell.emit(facts | {"status": row.status})
        return
    shell.show(said)
    if row.status not in ENDED:
        agent = row.agent.removeprefix("agent:")
        files = files_declaring(agent)
        file = str(files[0]) if len(files) == 1 else "FILE"
        ways = (
            shell.suggest("run", f"{file}:{agent}", "--id", row.run),
            shell.suggest("worker", file),
        )
        shell.show(f"a worker takes it from here; if none runs: {', or '.join(ways)}")
