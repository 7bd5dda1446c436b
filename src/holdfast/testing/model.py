"""What a store must answer, as a pure model: sets, lists and the fold, no storage and no waiting.

Order among concurrent writers is a store's own choice, as are the numbers it gives to messages and
to places in the log. So the model foretells what a store may not choose, and *learns* the rest from
the store's answers, which it refuses where they break a promise: a run's events in order, nothing
missing, nothing twice; each sender's messages in order; numbers that rise.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.core import events as ev
from holdfast.core.events import Event
from holdfast.core.state import ENDED, RunRow, fold
from holdfast.errors import Conflict, Fenced, StoreError
from holdfast.ports import Append, Claim, InboxMessage, Message, NewRun

__all__ = ["ModelRun", "StoreModel", "check_stream"]


@dataclass
class ModelRun:
    """A stream, how often it was claimed, who holds it and what it had seen when it was let go."""

    events: list[Event]
    epoch: int = 0
    worker: str = ""
    seen: int = 0

    @property
    def row(self) -> RunRow:
        """The fold, which the store's row must equal."""
        return fold(self.events).row()


@dataclass
class StoreModel:
    """Everything that a store must know."""

    runs: dict[str, ModelRun] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    unread: defaultdict[str, dict[int, Message]] = field(default_factory=lambda: defaultdict(dict))
    arriving: defaultdict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    """Delivered, but not yet seen in the store's answers."""
    known: set[tuple[str, str]] = field(default_factory=set)
    numbers: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Every inbox number there ever was, and what it was given to."""
    writing: defaultdict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    """Written, but not yet seen in the store's log."""
    position: int = 0
    ledger: list[int] = field(default_factory=list)
    """The rows of a table of the user's."""

    def create(self, new: NewRun) -> bool:
        """Create a run unless there is one."""
        if new.row.run in self.runs:
            return False
        self.runs[new.row.run] = ModelRun(list(new.events))
        self.writing[new.row.run] += new.events
        return True

    def deliver(self, messages: Sequence[Message]) -> list[bool]:
        """Deliver each message whose id its inbox has not seen."""
        arrived = []
        for message in messages:
            arrived.append((message.to, message.id) not in self.known)
            if arrived[-1]:
                self.known.add((message.to, message.id))
                self.arriving[message.to].append(message)
        return arrived

    def refusal(self, change: Append) -> type[StoreError] | None:
        """Return the error that a change must meet."""
        run = self.runs.get(change.run)
        if run and run.epoch != change.epoch:
            return Fenced
        return None if run and len(run.events) == change.expected_seq else Conflict

    def apply(self, change: Append) -> None:
        """Carry out a change that is not refused."""
        run = self.runs[change.run]
        run.events += change.events
        self.writing[change.run] += change.events
        for n in change.consume:
            del self.unread[change.run][n]
        for new in change.create:
            self.create(new)
        self.deliver(change.deliver)
        if change.release:
            run.worker, run.seen = "", change.seen

    def free(self, worker: str) -> None:
        """Take away all that a worker holds."""
        self.leases.pop(worker, None)
        for run in self.runs.values():
            run.worker = "" if run.worker == worker else run.worker

    def renew(self, worker: str, now: int, lease_us: int) -> bool:
        """Extend a lease, unless it has run out."""
        if self.leases.get(worker, 0) < now:
            self.free(worker)
            return False
        self.leases[worker] = now + lease_us
        return True

    def expire(self, now: int) -> None:
        """Take away what the leases of lost workers held."""
        for worker in [name for name, until in self.leases.items() if until < now]:
            self.free(worker)

    def claimable(
        self, now: int, agents: Sequence[str], only: str = "", family: str = ""
    ) -> set[str]:
        """Return the runs that a claim chooses from."""
        return {
            name
            for name, run in self.runs.items()
            if not run.worker
            and run.row.agent in agents
            and run.row.status not in ENDED
            and (name == only if only else self._ready(name, now))
            and (name == family or name.startswith(f"{family}/") or not family)
        }

    def _ready(self, name: str, now: int) -> bool:
        run, row = self.runs[name], self.runs[name].row
        return (
            row.status in ("pending", "running")
            or 0 < row.wake_at <= now
            or any(n > run.seen for n in self.unread[name])
        )

    def claimed(self, worker: str, claims: Sequence[Claim], now: int, lease_us: int) -> None:
        """Learn which runs a store gave to a worker."""
        self.leases[worker] = now + lease_us
        for claim in claims:
            run = self.runs[claim.row.run]
            assert not run.worker, f"{worker} was given {claim}, which {run.worker} holds"
            run.worker = worker
            run.epoch += 1
            assert claim == Claim(run.row, run.epoch), f"{claim} is not {run}"

    def rows(
        self,
        *,
        prefix: str = "",
        status: Sequence[str] = (),
        agents: Sequence[str] = (),
        after: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        """Return what the store's ``rows`` must."""
        rows = [run.row for run in self.runs.values()]
        rows = [row for row in rows if row.run.startswith(prefix)]
        rows = [row for row in rows if row.status in (status or [row.status])]
        rows = [row for row in rows if row.agent in (agents or [row.agent])]
        rows = [row for row in rows if not after or (row.created_at, row.run) < after]
        return sorted(rows, key=lambda row: (row.created_at, row.run))[::-1][:limit]

    def ready(self, now: int, agents: Sequence[str]) -> set[bool]:
        """Return the answers that ``ready`` may give: if a lease is over, it need not look on."""
        if self.claimable(now, agents):
            return {True}
        return {True, False} if min(self.leases.values(), default=now) < now else {False}

    def mail(self, worker: str, after: int) -> tuple[int, list[InboxMessage]]:
        """Return the mail of what a worker holds."""
        held = [name for name, run in self.runs.items() if run.worker == worker]
        mail = {n: m for name in held for n, m in self.unread[name].items() if n > after}
        largest = max(self.numbers, default=0)
        return largest, [InboxMessage(n, mail[n]) for n in sorted(mail)]

    def next_wake(self, agents: Sequence[str], after: int = 0) -> int:
        """Return the earliest time at which a run that nobody holds, and is not ready, will be."""
        free = [name for name, run in self.runs.items() if not run.worker]
        rows = [self.runs[name].row for name in free if not self._is_ready_in_time(name)]
        return min((r.wake_at for r in rows if r.wake_at > after and r.agent in agents), default=0)

    def _is_ready_in_time(self, name: str) -> bool:
        """Tell whether something else than its time has made a run ready, not after its time."""
        run, row = self.runs[name], self.runs[name].row
        mail = [m.at for n, m in self.unread[name].items() if n > run.seen]
        since = [row.updated_at] if row.status in ("pending", "running") else mail
        return row.status not in ENDED and min(since, default=row.wake_at + 1) <= row.wake_at

    def learn_unread(self, run: str, answer: Sequence[InboxMessage]) -> None:
        """Check a whole inbox and learn the numbers of what has arrived."""
        old = [InboxMessage(n, message) for n, message in self.unread[run].items()]
        assert list(answer[: len(old)]) == old, f"inbox {run!r}: {answer} does not begin with {old}"
        new = answer[len(old) :]
        numbers = [message.n for message in answer]
        assert numbers == sorted(set(numbers)), f"inbox {run!r}: {numbers} do not rise"
        assert by_sender([m.message for m in new]) == by_sender(self.arriving.pop(run, []))
        for n, message in ((m.n, m.message) for m in new):
            assert n not in self.numbers, f"number {n} was given to {self.numbers[n]} before"
            assert n > self.largest(run), f"inbox {run!r}: {n} after {self.largest(run)}"
            self.unread[run][n] = message
        self.numbers |= {m.n: (run, m.message.id) for m in new}

    def largest(self, run: str) -> int:
        """Return the largest number that an inbox ever gave, 0 for none."""
        return max((n for n, (to, _) in self.numbers.items() if to == run), default=0)

    def learn_log(self, answer: Sequence[tuple[int, Event]]) -> None:
        """Check some further pairs of the log; what is left in ``writing`` is yet to come."""
        for position, event in answer:
            assert position > self.position, f"position {position} after {self.position}"
            self.position = position
            expected = self.writing[event.run]
            assert expected, f"the log holds {event} once more, or nobody wrote it"
            assert expected.pop(0) == event, f"the log of {event.run!r} holds {event} out of order"


def by_sender(messages: Sequence[Message]) -> dict[str, list[Message]]:
    """Return each sender's messages, in order."""
    senders: defaultdict[str, list[Message]] = defaultdict(list)
    for message in messages:
        senders[message.sender].append(message)
    return dict(senders)


def check_stream(events: Sequence[Event]) -> RunRow:
    """Check all that must hold within one stream and return the row that it folds to."""
    assert [event.seq for event in events] == [*range(1, len(events) + 1)]
    heads = [ev.GENESIS, *(ev.leaf_hash(event.leaf) for event in events)]
    assert [event.prev for event in events] == heads[:-1]
    assert [event.epoch for event in events] == sorted(event.epoch for event in events)
    for event in events:
        assert event == ev.open_leaf(event.leaf, payload=event.payload, salt=event.salt)
        if event.payload is not None and event.salt is not None:
            assert event.committed == ev.commitment(event.salt, event.payload)
    return fold(events).row()
