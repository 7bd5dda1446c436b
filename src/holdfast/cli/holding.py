"""Holding runs back: `holdfast pause`, `resume` and `queues`."""

import re
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from holdfast.app import App
from holdfast.cli.shell import Shell, command
from holdfast.cli.steer import ByOption, this_person
from holdfast.cli.text import Grid, ago, clean
from holdfast.cli.values import SECONDS
from holdfast.core.state import ENDED
from holdfast.errors import UsageError
from holdfast.ports import Pause, QueueInfo, QueueLimits, Rest

__all__ = ["pause_command", "queues_command", "resume_command"]

RunOption = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A run's id, or an unambiguous beginning of it.")
]
QueueOption = Annotated[str, typer.Option("--queue", metavar="NAME", help="A queue instead.")]
AgentOption = Annotated[
    str, typer.Option("--agent", metavar="NAME", help="All runs of an agent instead.")
]


@command
async def pause_command(
    shell: Shell,
    *,
    run: RunOption = "",
    queue: QueueOption = "",
    agent: AgentOption = "",
    by: ByOption = "",
) -> None:
    """Keep a run, a queue or an agent from being carried on.

    A run that a worker holds is given back as soon as no effect of it is under way. Messages still
    arrive, and are read once it is resumed; so is a request to cancel.
    """
    async with shell.app(write=True) as app:
        found = await app.client.find(run) if run else ""
        row = await app.client.row(found) if found else None
        if row is not None and row.status in ENDED and not (queue or agent):
            raise UsageError(f"run {found!r} has {row.status} already")
        who = by or this_person()
        done = await app.client.pause(run=found, queue=queue, agent=agent, by=who)
    _say(shell, found, queue, agent, "paused" if done else "paused already", done=done)


@command
async def resume_command(
    shell: Shell, *, run: RunOption = "", queue: QueueOption = "", agent: AgentOption = ""
) -> None:
    """Let what was paused be carried on.

    A run stays held back while its queue or its agent is paused.
    """
    async with shell.app(write=True) as app:
        found = await app.client.find(run) if run else ""
        done = await app.client.resume(run=found, queue=queue, agent=agent)
    _say(shell, found, queue, agent, "resumed" if done else "not paused", done=done)


@command
async def queues_command(
    shell: Shell,
    *,
    queue: Annotated[str, typer.Argument(metavar="[QUEUE]", help="Only this one.")] = "",
    concurrency: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="How many of its runs are in memory at once."),
    ] = None,
    per_key: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="How many of those of one key.")
    ] = None,
    rate: Annotated[
        str, typer.Option(metavar="N/TIME", help="How many begin in a time, such as 100/min.")
    ] = "",
) -> None:
    """List queues and limits; or set the limits of one.

    Limits hold for all workers at once. A limit of 0 is none; one that is not said stays as it is.
    Providers of models that have asked to be left alone (Retry-After) are named behind the queues.
    """
    now = time.time_ns() // 1000
    setting = concurrency is not None or per_key is not None or bool(rate)
    if setting and not queue:
        raise UsageError("say which queue the limits are for")
    number, period_s = _rate(rate)
    async with shell.app(write=setting) as app:
        if setting:
            had = await _limits(app, queue, now)
            await app.client.limit(
                queue,
                concurrency=had.concurrency if concurrency is None else concurrency,
                per_key=had.per_key if per_key is None else per_key,
                rate=number if rate else had.rate,
                period_s=period_s if rate else had.period_us / 1e6 or 1.0,
            )
        found = {info.limits.queue: info for info in await app.store.queues(now=now)}
        pauses = {p.name: p for p in await app.store.pauses() if p.kind == "queue"}
        rests = [] if queue else await app.store.rests(now=now)
    for name in pauses:
        found.setdefault(name, QueueInfo(QueueLimits(name), 0, 0))
    _list_queues(shell, [found[q] for q in sorted(found) if queue in ("", q)], pauses, now)
    for rest in rests:
        if rest.left_us > 0:
            _say_rest(shell, rest)


async def _limits(app: App, queue: str, now: int) -> QueueLimits:
    infos = await app.store.queues(now=now)
    return next((i.limits for i in infos if i.limits.queue == queue), QueueLimits(queue))


def _list_queues(shell: Shell, found: list[QueueInfo], pauses: dict[str, Pause], now: int) -> None:
    if shell.as_json:
        for info in found:
            shell.emit(_as_json(info, pauses), line=True)
        return
    if not found:
        shell.note("no queues")
        return
    table = Grid("queue", "ready", "held", "at once", "per key", "begin", "paused")
    for info in found:
        pause = pauses.get(info.limits.queue)
        table.add_row(
            Text(clean(info.limits.queue)),
            str(info.ready),
            str(info.held),
            str(info.limits.concurrency or "any"),
            str(info.limits.per_key or "any"),
            _rate_text(info),
            Text(clean(f"by {pause.by} {ago(now - pause.at)} ago" if pause else "")),
        )
    shell.show(table)


def _say_rest(shell: Shell, rest: Rest) -> None:
    if shell.as_json:
        facts = {"provider": rest.provider, "left_s": round(rest.left_us / 1e6, 3)}
        shell.emit(facts, line=True)
    else:
        left = ago(rest.left_us)
        shell.show(clean(f"{rest.provider} has asked to be left alone: {left} to go"))


def _say(shell: Shell, run: str, queue: str, agent: str, said: str, *, done: bool) -> None:
    named = {"run": run, "queue": queue, "agent": agent}
    kind, name = next((kind, name) for kind, name in named.items() if name)
    if shell.as_json:
        shell.emit({"kind": kind, "name": name, "changed": done})
    else:
        shell.show(clean(f"{kind} {name!r} is {said}"))


def _rate(text: str) -> tuple[int, float]:
    if text in ("", "0"):
        return 0, 1.0
    units = "|".join(SECONDS)
    found = re.fullmatch(rf"(\d+)\s*/\s*([\d.]*)\s*({units})", text)
    if not found:
        raise UsageError(f"--rate {text!r}: expected such as 100/min, 5/s or 1000/24h")
    return int(found[1]), float(found[2] or 1) * SECONDS[found[3]]


def _rate_text(info: QueueInfo) -> str:
    return f"{info.limits.rate} in {ago(info.limits.period_us)}" if info.limits.rate else "any"


def _as_json(info: QueueInfo, pauses: dict[str, Pause]) -> dict[str, object]:
    pause = pauses.get(info.limits.queue)
    facts = asdict(info.limits) | {"ready": info.ready, "held": info.held}
    return facts | {"paused_by": pause.by if pause else ""}
