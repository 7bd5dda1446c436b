"""What is written while processes are simulated: checked at once, and told to all of them.

Invariants checked here: a stale epoch writes nothing, an epoch is never given twice, and each row
is the fold of what was appended.
"""

from collections.abc import Sequence
from typing import Protocol

from holdfast.core.state import RunState, fold
from holdfast.ports import Append, Claim, Message, NewRun
from holdfast.testing.faults import FaultyStore
from holdfast.testing.host import Time

__all__ = ["LEASE_S", "POLL_S", "Watch"]

LEASE_S = 30.0
POLL_S = 10.0


class Holder(Protocol):
    """A process, as far as it can hold leases."""

    name: str
    alive: bool
    stopped: bool
    gone_at_us: int
    store: FaultyStore


class Stage(Protocol):
    """Where the processes are."""

    time: Time

    @property
    def processes(self) -> Sequence[Holder]:
        """All that were ever started."""
        ...


class Watch:
    """Sees all that is written, checks it at once, and tells the other processes."""

    def __init__(self, stage: Stage) -> None:
        self.changes = 0
        self.changed_at_us = 0
        self.messages: list[Message] = []
        """All that have been delivered, in that order."""
        self.states: dict[str, RunState] = {}
        self.owners: dict[str, Holder] = {}
        """Which process has claimed a run last."""
        self.claimed: dict[tuple[str, int], Holder] = {}
        """(run, epoch) → whose it is."""
        self.held: dict[str, Holder] = {}
        """Which process has claimed a run and not released it."""
        self._stage = stage
        self._epochs: dict[str, int] = {}
        self._known: set[tuple[str, str]] = set()

    def leases(self) -> set[Holder]:
        """Return the processes that hold leases; one that has gone loses them after a while."""
        since_us = self._stage.time.passed_us - int((LEASE_S + POLL_S) * 1e6)
        return {
            holder
            for holder in self.held.values()
            if (holder.alive and not holder.stopped) or holder.gone_at_us > since_us
        }

    def wrote(self, process: Holder, what: Append | NewRun | Message | Claim) -> None:
        """Check what a process has written."""
        match what:
            case Append():
                self._appended(process, what)
            case NewRun():
                self._created(what)
            case Message():
                self._delivered(what)
            case Claim():
                run = what.row.run
                assert what.epoch > self._epochs.get(run, 0), f"{what}: the epoch is not new"
                self._epochs[run] = what.epoch
                self.owners[run] = self.held[run] = process
                self.claimed[run, what.epoch] = process
        self.tell()

    def tell(self) -> None:
        """Tell all processes that something has changed."""
        self.changes += 1
        self.changed_at_us = self._stage.time.passed_us
        for process in self._stage.processes:
            if process.alive:
                process.store.tell()

    def _appended(self, process: Holder, change: Append) -> None:
        newest = self._epochs.get(change.run, 0)
        assert change.epoch == newest, (
            f"{process.name} appended to {change.run} at epoch {change.epoch}, which is {newest}"
        )
        if change.release:
            self.held.pop(change.run, None)
        state = fold(change.events, self.states[change.run])
        assert state.row() == change.row, f"{change.row} is not the fold {state.row()}"
        for new in change.create:
            self._created(new)
        for message in change.deliver:
            self._delivered(message)

    def _created(self, new: NewRun) -> None:
        if new.row.run not in self.states:
            self.states[new.row.run] = fold(new.events)

    def _delivered(self, message: Message) -> None:
        if (message.to, message.id) not in self._known:
            self._known.add((message.to, message.id))
            self.messages.append(message)
