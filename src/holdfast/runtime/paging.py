"""Replays a long turn page by page, so that a run is taken up in little memory and holds up nobody.

The events of most turns are read at once, sorted (``core/replay.py``) and fed. Those of a turn of
ten thousand steps would fill the memory, and nobody needs them once they are fed. So they are read,
folded and fed one page at a time, each page in a callback of its own, and let go of.

That is right as long as no event of the turn is void, which only later events can tell. What would
make one so (a part of a stream, an accepted divergence), and whatever the code does not match, ends
it: nothing has left the process, and the turn is replayed as a whole, as if it had never begun.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from holdfast.core import events as ev
from holdfast.core.events import Event
from holdfast.core.loop import running
from holdfast.core.machine import Machine
from holdfast.core.state import ENDED, RunRow, RunState, apply, check_row, state_before
from holdfast.errors import Diverged, VaultMissing
from holdfast.ports import Store

__all__ = ["PAGE_EVENTS", "is_long", "read_turn", "replay_in_pages"]

T = TypeVar("T")

PAGE_EVENTS = 1_000

_UNUSUAL = (ev.StepEmitted, ev.RunAccepted, ev.TurnFinished, ev.TurnFailed)


def is_long(row: RunRow) -> bool:
    """Tell whether a run is in the middle of a turn of many events."""
    under_way = row.turn_seq and row.status != "idle" and row.status not in ENDED
    return bool(under_way) and row.seq - row.turn_seq >= PAGE_EVENTS


async def read_turn(store: Store, row: RunRow, created: Event) -> list[Event]:
    """Return all events of the turn that a run is in, or of all its life before the first.

    Raises:
        VaultMissing: their payloads cannot be read here.
    """
    turn_events = [created]
    if row.seq > 1:
        turn_events = await store.read(row.run, after=max(row.turn_seq, 1) - 1)
    if any(event.sealed for event in (created, *turn_events)):
        raise VaultMissing(
            f"run {row.run!r} is sealed: the vault with the key of subject {created.sub!r} is"
            " not at hand, so this worker leaves it to others. Hint: HOLDFAST_VAULT"
        )
    return turn_events


async def replay_in_pages(
    store: Store,
    row: RunRow,
    sub: str,
    make_machine: Callable[[], Machine],
    stopped: Callable[[], bool],
) -> tuple[RunState, Machine] | None:
    """Replay the turn that a run is in.

    Args:
        store: Where its events are.
        row: The run's row, whose lease is ours.
        sub: On whose behalf the run was created.
        make_machine: Makes a machine for the turn.
        stopped: Tells whether the run is to be given up.

    Returns:
        The run's state and the machine that has been fed all there is; None when the turn must be
        replayed as a whole, or was stopped.

    Raises:
        StoreRefused: the row is not what the events fold to.
    """
    page = await store.read(row.run, after=row.turn_seq - 1, limit=PAGE_EVENTS)
    state, machine = state_before(row, page[0], sub), make_machine()
    done = False
    try:
        while page and not stopped():
            ahead = await store.read(row.run, after=page[-1].seq, limit=PAGE_EVENTS)
            # A mark stands behind the event that led to its guard, so perhaps on the next page.
            machine.expect_marks(
                e.body.name for e in (*page, *ahead) if isinstance(e.body, ev.VersionMarked)
            )
            last = None if ahead else page[-1]
            if not await _in_callback(partial(_feed, state, machine, page, last)):
                return None
            page = ahead
        done = not page
    finally:
        if not done:
            machine.close()
    check_row(row, state)
    return (state, machine) if done else None


def _feed(state: RunState, machine: Machine, page: Sequence[Event], last: Event | None) -> bool:
    """Fold and feed a page, which may hold the last event; False if anything in it is unusual."""
    try:
        with running(machine.loop):  # once for all of them
            for event in page:
                if event.sealed or isinstance(event.body, _UNUSUAL):
                    return False
                apply(state, event)
                machine.feed(event, replaying=event is not last)
    except Diverged:
        return False
    return True


async def _in_callback(function: Callable[[], T]) -> T:
    """Call a function from a plain callback of the loop: a machine is never fed inside a task."""
    loop = asyncio.get_running_loop()
    come: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            come.set_result(function())
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            come.set_exception(error)

    loop.call_soon(call)
    return await come
