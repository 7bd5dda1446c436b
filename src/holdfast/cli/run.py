"""`holdfast run FILE:AGENT`: start a run, or attach to it, and advance it to its end."""

import asyncio
import contextlib
import json
import shlex
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status

from holdfast.app import App
from holdfast.cli.carrying import EXIT_CODES, Stop, carry_on, leave_at_once, prints_to_stderr
from holdfast.cli.loading import agents_of, load_agent
from holdfast.cli.outcomes import Outcome, outcome_of
from holdfast.cli.shell import FAILED, Shell, command
from holdfast.cli.text import clean, detail, subject
from holdfast.cli.values import read_value
from holdfast.core import events as ev
from holdfast.core.specs import AgentSpec, agent_spec
from holdfast.core.state import ENDED
from holdfast.errors import CodecError, RunConflict, UsageError
from holdfast.runtime.worker import WorkerSettings

__all__ = ["run_command"]


@command
async def run_command(
    shell: Shell,
    *,
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:AGENT]", help="A Python file or module, and the agent in it if several."
        ),
    ],
    surplus: Annotated[list[str] | None, typer.Argument(metavar="", hidden=True)] = None,
    run: Annotated[
        str, typer.Option("--id", metavar="ID", help="The run's id; one id is one run.")
    ] = "",
    on_behalf: Annotated[
        str,
        typer.Option(
            "--subject", metavar="S", help="A pseudonymous id: whose data this is, to be erasable."
        ),
    ] = "",
    given: Annotated[
        str | None, typer.Option("--input", metavar="JSON|@FILE|-", help="The agent's input.")
    ] = None,
) -> int:
    """Start a run, or attach to it, and advance it to its end.

    An id given twice is one run: after a crash, the same command carries on. The result is JSON on
    stdout; what agents and steps print goes to stderr. Exits with 0 when the run is done, 1 when it
    failed or was cancelled, 4 when it is parked: in doubt, diverged, or waiting.
    """
    if surplus:
        word = " ".join(surplus)
        raise UsageError(f"unexpected: {word}. Hint: an input is JSON: {_as_option(word)}")
    payload = None if given is None else read_value(given, "--input")
    with prints_to_stderr():
        code, agent = load_agent(what)
    async with shell.app(agents_of([code]), write=True, create=True) as app:
        run = await _start(shell, app, agent_spec(agent), run, payload, on_behalf=on_behalf)
        with prints_to_stderr():
            stop = await _advance(shell, app, run)
        outcome = await outcome_of(shell, app, run)
    exit_code = _report(shell, outcome, stop, shell.suggest("run", what, "--id", run))
    if stop.cut:
        leave_at_once(exit_code)
    return exit_code


def _as_option(word: str) -> str:
    """Return how a word is given as an input."""
    try:
        json.loads(word)
    except ValueError:
        word = json.dumps(word, ensure_ascii=False)
    return f"--input {shlex.quote(word)}"


async def _start(
    shell: Shell, app: App, spec: AgentSpec, run: str, payload: bytes | None, *, on_behalf: str
) -> str:
    """Start the run unless there is one by that id, and return its id."""
    row = await app.store.row(run) if run else None
    if row is not None and row.agent != spec.uri:
        raise RunConflict(f"run {run!r} belongs to {row.agent}, not to {spec.uri}")
    if row is not None and payload is None:
        return run
    data = b"null" if payload is None else payload
    if payload is not None or not spec.has_state:
        try:
            data = spec.encode_input((), spec.decode_input(data))
        except CodecError as error:
            if payload is not None:
                raise
            raise CodecError(f"{error}. Hint: give it with --input JSON") from error
    if row is not None and (first := await _first_input(app, spec, run)) not in (None, data):
        said = clean((first or b"").decode("utf-8", "replace"))[:80]
        shell.note(f"note: run {run!r} was started with another input, which counts: {said}")
    started = await app.client.start_encoded(spec, data, run=run, subject=on_behalf)
    if not run:
        shell.note(f"run {started}")
    return started


async def _first_input(app: App, spec: AgentSpec, run: str) -> bytes | None:
    """Return the input that a run was started with, None when it had none or it was erased."""
    if not spec.has_state:
        return (await app.store.read(run, until=1))[0].payload
    first = f"{run}/first"
    for message in await app.store.unread(run):
        if message.message.id == first:
            return message.message.payload
    for event in await app.store.read(run):
        if isinstance(event.body, ev.TurnStarted) and event.body.message == first:
            return event.payload
    return None


async def _advance(shell: Shell, app: App, run: str) -> Stop:
    if (await app.client.row(run)).status in ENDED:
        return Stop()
    worker = app.worker(WorkerSettings(only_run=run), linger_s=0.2)
    async with _progress(app, run):
        return await carry_on(shell, worker, until_idle=True, run=run)


@contextlib.asynccontextmanager
async def _progress(app: App, run: str) -> AsyncIterator[None]:
    """Show on a terminal what the run is at."""
    if not sys.stderr.isatty():
        yield
        return
    console = Console(stderr=True, markup=False, highlight=False)
    with Status(f"run {clean(run)}", console=console) as status:
        task = asyncio.get_running_loop().create_task(_watch(app, run, status))
        try:
            yield
        finally:
            task.cancel()


async def _watch(app: App, run: str, status: Status) -> None:
    after = (await app.client.row(run)).seq - 1
    async for seq, event in app.client.stream(run, after=max(0, after), values=False):
        said = " ".join(filter(None, (subject(event.body), detail(event.body))))
        status.update(f"run {clean(run)}  #{seq} {event.body.type} {said}")


def _report(shell: Shell, outcome: Outcome, stop: Stop, again: str) -> int:
    """Print what came of the run and return the exit code."""
    stopped_by = stop.by if not outcome.settled else None
    if shell.as_json:
        shell.emit(outcome.facts | ({"stopped_by": stopped_by.name} if stopped_by else {}))
    elif "result" in outcome.facts:
        _print_result(shell, outcome.facts["result"])
    if stop.trouble is not None:
        shell.note(f"run {outcome.facts['run']!r} stopped; nothing is lost, carry on with {again}")
        return FAILED
    for line in outcome.lines:
        shell.note(line)
    if stopped_by is not None:
        shell.note(f"stopped by {stopped_by.name}; carry on with {again}")
        return EXIT_CODES[stopped_by]
    return outcome.code


def _print_result(shell: Shell, result: Any) -> None:
    if sys.stdout.isatty():
        shell.console.print_json(json.dumps(result))
    else:
        shell.emit(result)
