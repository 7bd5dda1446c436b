"""`holdfast why RUN@SEQ`: from an event back to the outside inputs it came of, across runs.

Every event names its causes, so the answer is a walk. ``why`` is that walk and knows nothing of
stores: ``fetch`` brings an event. It shows each event once, so it ends even on a log whose causes
go in a circle.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

import typer
from rich.text import Text

from holdfast.cli.shell import Shell, command, find_event
from holdfast.cli.text import (
    cause_text,
    clean,
    clock,
    detail,
    event_json,
    excerpt,
    subject,
)
from holdfast.core import events as ev
from holdfast.core.events import Event

__all__ = ["Fetch", "Link", "why"]

Fetch: TypeAlias = Callable[[str, int], Awaitable[Event | None]]
_NOBODY = ("reconcile", "drain")
"""What settles a doubt without a person."""

Place: TypeAlias = tuple[str, int]
"""A run and a seq."""


@dataclass(frozen=True)
class Link:
    """A place in the answer; its causes follow, the last one at its own depth, others deeper."""

    run: str
    seq: int
    depth: int
    event: Event | None = None
    """None when it stands in the answer already, or the log does not have it."""
    causes: tuple[Place, ...] = ()
    seen: bool = False
    """Whether it stands further up already."""

    @property
    def missing(self) -> bool:
        """Whether the log does not have the event."""
        return self.event is None and not self.seen

    @property
    def outside(self) -> bool:
        """Whether something came in here from outside: no event caused it, or a person did."""
        if self.event is None:
            return False
        body = self.event.body
        said = isinstance(body, ev.StepResolved) and body.by not in _NOBODY
        return said or not self.causes


async def why(fetch: Fetch, run: str, seq: int) -> list[Link]:
    """Return the chain of causes of an event, the event itself first.

    Args:
        fetch: Returns the event at a place, or None.
        run: The event's run.
        seq: Its seq.
    """
    links: list[Link] = []
    shown: set[Place] = set()
    waiting = [Link(run, seq, 0)]
    while waiting:
        link = waiting.pop()
        place = (link.run, link.seq)
        if place in shown:
            links.append(replace(link, seen=True))
            continue
        shown.add(place)
        event = await fetch(*place)
        causes = (
            tuple((link.run, c) if isinstance(c, int) else c for c in event.cause) if event else ()
        )
        links.append(replace(link, event=event, causes=causes))
        deeper = [link.depth + 1] * (len(causes) - 1) + [link.depth]
        waiting += [Link(*cause, depth) for cause, depth in zip(causes, deeper, strict=False)][::-1]
    return links


@command
async def why_command(
    shell: Shell,
    *,
    event: Annotated[
        str, typer.Argument(metavar="RUN[@SEQ]", help="An event; a run's last one without @SEQ.")
    ],
) -> None:
    """Tell what an event came of, back to the outside.

    The event stands first, below it what caused it, and so on until something came in from
    outside: an input, a message, a person's word. Where an event has several causes, all but one
    are indented. The chain crosses from run to run along messages and children.
    """
    async with shell.app() as app:
        run, seq = await find_event(app, event)
        runs: dict[str, list[Event]] = {}

        async def fetch(run: str, seq: int) -> Event | None:
            if run not in runs:
                runs[run] = await app.store.read(run)
            return runs[run][seq - 1] if 0 < seq <= len(runs[run]) else None

        links = await why(fetch, run, seq)
    if shell.as_json:
        shell.emit([_as_json(link) for link in links])
        return
    for link in links:
        shell.show(_as_line(link))


def _as_json(link: Link) -> dict[str, Any]:
    facts: dict[str, Any] = {"run": link.run, "seq": link.seq, "depth": link.depth}
    facts |= {"outside": link.outside, "seen": link.seen, "missing": link.missing}
    return facts | ({"event": event_json(link.event)} if link.event else {})


def _as_line(link: Link) -> Text:
    line = Text("  " * link.depth, overflow="ellipsis", no_wrap=True)
    line.append(f"{clean(link.run)}@{link.seq}", style="bold")
    event = link.event
    if event is None:
        return line.append("  see above" if link.seen else "  is not in this store", style="dim")
    line.append(f"  {clock(event.at)}  ", style="dim")
    line.append(event.body.type, style="cyan")
    said = [part for part in (subject(event.body), detail(event.body)) if part]
    line.append(f" {', '.join(said)}")
    said_of_it = f"[{event.withheld}]" if event.withheld else excerpt(event.payload)
    line.append(f"  {said_of_it}".rstrip(), style="dim")
    if len(link.causes) > 1:
        line.append(f"  ← {cause_text(event.cause)}", style="dim")
    if link.outside:
        line.append(f"  ← {_whence(event.body)}", style="green")
    return line


def _whence(body: ev.Body) -> str:
    """Say where an event without a recorded cause came from."""
    match body:
        case ev.RunCreated():
            return "started from outside"
        case ev.MessageReceived() | ev.TurnStarted():
            return "a message from outside"
        case ev.StepResolved() | ev.RunAccepted() | ev.CancelRequested():
            return "a word from outside"
        case _:
            return "from outside"
