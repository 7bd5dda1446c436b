"""`holdfast worker FILE…`: carry on every runnable run of the agents in these files."""

from collections import Counter
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.app import App
from holdfast.cli.carrying import carry_on, leave_at_once, prints_to_stderr
from holdfast.cli.listing import each_row
from holdfast.cli.loading import agents_of, files_declaring, load, schedules_of
from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.errors import UsageError
from holdfast.runtime.probes import probes
from holdfast.runtime.worker import WorkerSettings

__all__ = ["worker_command"]

_LOOK_AT_MAX = 10_000
"""Rows looked at for runs of unknown agents, so that a large store does not hold up the start."""


@command
async def worker_command(
    shell: Shell,
    *,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Python files or modules with agents.")
    ],
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when no run could go on.")
    ] = False,
    lease_s: Annotated[
        float,
        typer.Option(
            "--lease",
            min=0.3,
            metavar="S",
            help="Seconds without a sign of life after which others may take the runs over.",
        ),
    ] = 15.0,
    drain_timeout_s: Annotated[
        float,
        typer.Option(
            "--drain-timeout",
            min=0,
            metavar="S",
            help="Seconds that effects under way may take after SIGTERM, before they are cut.",
        ),
    ] = 30.0,
    health: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Answer /live and /ready on this port of 127.0.0.1; 0 takes one that is free.",
        ),
    ] = None,
) -> int:
    """Carry on every run of the agents in these files.

    Runs until a signal comes. SIGTERM and Ctrl-C drain: nothing new is begun, effects under way are
    finished, and the runs are handed back for another worker, which takes them over at once. What
    is not finished when the drain's time is over is given up as by a crash.
    """
    with prints_to_stderr():
        codes = [load(file) for file in files]
    for code in codes:
        if not code.agents:
            hint = "Hint: put @hf.agent above a function."
            raise UsageError(f"{code.where} declares no agent. {hint}")
    settings = WorkerSettings(lease_s=lease_s, poll_s=min(1.0, lease_s / 3))
    schedules = schedules_of(codes)
    opened = shell.app(agents_of(codes), write=True, create=True, schedules=schedules)
    async with opened as app:
        worker = app.worker(settings)
        worker.about = {**worker.about, "version": __version__}
        names = ", ".join(sorted(spec.name for spec in app.agents.values()))
        shell.note(f"{worker.name} serves {names}; store {app.store.url}, lease {lease_s:g} s")
        await _say_unknown(shell, app)
        async with AsyncExitStack() as stack:
            if health is not None:
                port = await stack.enter_async_context(probes(worker, health))
                shell.note(f"http://127.0.0.1:{port}/ready and /live tell how it is")
            stack.enter_context(prints_to_stderr())
            stop = await carry_on(
                shell, worker, until_idle=until_idle, drain_timeout_s=drain_timeout_s
            )
        url = app.store.url
    why = stop.by.name if stop.by else "idle"
    if shell.as_json:
        agents = sorted(spec.name for spec in app.agents.values())
        facts = {"worker": worker.name, "store": url, "agents": agents}
        shell.emit(facts | {"stopped_by": why, "cut": stop.cut, "given_up": stop.given_up})
    shell.note(f"{worker.name} has ended: {why}{', effects were cut' if stop.cut else ''}")
    if stop.cut:
        leave_at_once(FAILED)
    return DONE


async def _say_unknown(shell: Shell, app: App) -> None:
    """Say which runs could go on, had the files with their agents been given."""
    found: Counter[str] = Counter()
    example: dict[str, str] = {}
    looked = 0
    async for row in each_row(app.store, status=["pending", "running"]):
        looked += 1
        if row.agent not in app.agents:
            found[row.agent] += 1
            example[row.agent] = row.run
        if looked == _LOOK_AT_MAX:
            break
    for agent, count in found.items():
        name = agent.removeprefix("agent:")
        files = " or ".join(map(str, files_declaring(name)))
        shell.note(
            f"{count} runnable run{'' if count == 1 else 's'} of agent {name!r} (such as"
            f" {example[agent]!r}): no file given declares it. Hint: give"
            f" {files or 'the file that does'} too"
        )
