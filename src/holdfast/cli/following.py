"""`holdfast events` and `holdfast tail`: events as lines, those there are and those to come."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.text import Text

from holdfast.cli.shell import RunArgument, Shell, command
from holdfast.cli.text import (
    STYLES,
    cause_text,
    clean,
    clock,
    detail,
    event_json,
    excerpt,
    subject,
)
from holdfast.core.events import BODIES, Event
from holdfast.core.state import ENDED
from holdfast.errors import UsageError
from holdfast.ports import Store

__all__ = ["event_line", "events_command", "last_position", "tail_command"]

_PAGE = 500
_POLL_S = 1.0
_TAIL = 10
"""How many events `tail` shows before it waits for more."""


@command
async def events_command(
    shell: Shell,
    *,
    run: RunArgument,
    payloads: Annotated[bool, typer.Option(help="Show what the events carry.")] = True,
    kind: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only these, such as step.finished or step."),
    ] = None,
    after: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Only behind this one.")] = 0,
) -> None:
    """Print the events of a run, one a line."""
    wanted = tuple(kind or ())
    for name in wanted:
        if not any(known == name or known.startswith(f"{name}.") for known in BODIES):
            raise UsageError(f"--type {name!r} is no event type; there are {', '.join(BODIES)}")
    async with shell.app() as app:
        found = await app.client.find(run)
        while page := await app.store.read(found, after=after, limit=_PAGE):
            after = page[-1].seq
            for event in page:
                if not wanted or event.body.type.startswith(wanted):
                    _print(shell, event, payloads=payloads)


@command
async def tail_command(
    shell: Shell,
    *,
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="Only this run, until it has ended.")
    ] = "",
    after: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="POSITION",
            help="Begin behind this position of the log (with RUN: behind this seq), not with the"
            " last ten events.",
        ),
    ] = None,
    payloads: Annotated[bool, typer.Option(help="Show what the events carry.")] = True,
) -> None:
    """Follow the log, or one run: print events as they come.

    Ends with Ctrl-C, or when the run has ended.
    """
    async with shell.app() as app:
        store = app.store
        if run:
            found = await app.client.find(run)
            row = await app.client.row(found)
            follow = _follow_run(store, found, max(0, row.seq - _TAIL) if after is None else after)
        else:
            begin = max(0, await last_position(store) - _TAIL) if after is None else after
            follow = _follow_log(store, begin)
        async for position, event in follow:
            _print(shell, event, payloads=payloads, position=position, whose=not run)


async def _follow_run(store: Store, run: str, after: int) -> AsyncIterator[tuple[int, Event]]:
    while True:
        row = await store.row(run)
        page = await store.read(run, after=after, limit=_PAGE)
        for event in page:
            after = event.seq
            yield 0, event
        if row is not None and row.status in ENDED and after >= row.seq:
            return
        if not page:
            await store.changed(_POLL_S)


async def _follow_log(store: Store, after: int) -> AsyncIterator[tuple[int, Event]]:
    while True:
        page = await store.read_log(after, limit=_PAGE)
        for position, event in page:
            after = position
            yield position, event
        if not page:
            await store.changed(_POLL_S)


async def last_position(store: Store) -> int:
    """Return the position of the log's last event, 0 when it is empty, in few short reads."""
    high = 1
    while await store.read_log(high, limit=1):
        high *= 2
    low = high // 2
    while low < high:  # what we look for is in low … high
        middle = (low + high) // 2
        if page := await store.read_log(middle, limit=1):
            low = page[0][0]
        else:
            high = middle
    return low


def _print(
    shell: Shell, event: Event, *, payloads: bool, position: int = 0, whose: bool = False
) -> None:
    if shell.as_json:
        facts: dict[str, Any] = {"position": position} if position else {}
        shell.emit(facts | event_json(event, payload=payloads), line=True)
    else:
        shell.show(event_line(event, payloads=payloads, whose=whose))


def event_line(event: Event, *, payloads: bool = True, whose: bool = False) -> Text:
    """Return an event as one line: time, seq, type, what it is about, causes, an excerpt."""
    body = event.body
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{clock(event.at)}.{event.at // 1000 % 1000:03} ", style="dim")
    if whose:
        line.append(f"{clean(event.run)} ", style="bold")
    line.append(f"{event.seq:>4} ", style="bold")
    line.append(f"{body.type:<16} ", style=STYLES.get(body.type.removeprefix("run."), "cyan"))
    line.append(" ".join(filter(None, (subject(body), detail(body)))))
    if event.cause:
        line.append(f"  ← {cause_text(event.cause)}", style="dim")
    if payloads and event.payload is not None:
        line.append(f"  {excerpt(event.payload)}", style="green")
    if event.withheld:
        line.append(f"  [{event.withheld}]", style="magenta")
    return line
