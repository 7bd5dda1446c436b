"""What holdfast asks of the world, as protocols; their contracts are in the docstrings.

The store is the one that matters. Its single way to write a stream is ``append``: it checks epoch
and length, and writes events, the run's row and the effects on other projections in one
transaction, or nothing. Two exceptions say that nothing was written for a reason of the stream:
``Fenced`` (another epoch owns the run) and ``Conflict`` (the stream has another length).
``StoreUnavailable`` says that nothing was written for a reason of the world.

Ways to extend holdfast stand here too: *middleware* around a step, *followers* behind the writers.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.core.events import Cause, Event
from holdfast.core.state import RunRow
from holdfast.fleet import Pause, QueueInfo, QueueLimits, Rest, Rests, Standing, WorkerInfo
from holdfast.retention import Retention
from holdfast.signed import SignedLog
from holdfast.sources import Clock, Entropy
from holdfast.subjects import Erasure, Subject

__all__ = [
    "INCOMING",
    "Answer",
    "Append",
    "Claim",
    "Clock",
    "Entropy",
    "Follower",
    "InboxMessage",
    "Letter",
    "Message",
    "Middleware",
    "NewRun",
    "Part",
    "Pause",
    "QueueInfo",
    "QueueLimits",
    "Rest",
    "Rests",
    "Snapshot",
    "Standing",
    "StepCall",
    "Store",
    "Transaction",
    "WorkerInfo",
]

INCOMING = "$import"
"""Who holds a run of which parts are still to come from another store; no worker is called so."""


@dataclass(frozen=True, slots=True)
class Message:
    """A value on its way to a run's inbox.

    ``(to, id)`` is unique for ever: a second delivery changes nothing.
    """

    to: str
    id: str
    topic: str
    payload: bytes
    at: int
    sender: str = ""
    """The sending run, empty for the outside world."""
    cause: tuple[Cause, ...] = ()
    """The sender's ``(run, seq)``."""
    sub: str = ""
    """On whose behalf, as an event's ``sub``; whoever takes the message in keeps it so."""


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """An unread message and its number.

    Arrival order over the whole store, so rising within an inbox.
    """

    n: int
    message: Message


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to create.

    Its first events (``run.created`` and perhaps more) and the row they fold to.
    """

    row: RunRow
    events: Sequence[Event]


@dataclass(slots=True)
class Append:
    """One atomic change of one run.

    ``events`` continue the stream at ``expected_seq + 1`` and ``row`` is what the stream folds to
    after them. ``deliver``, ``create`` and ``consume`` happen in the same transaction. ``release``
    gives up the lease; with it, ``seen`` is the largest inbox number the run has looked at: should
    a larger one have arrived meanwhile, the run becomes claimable at once, so that no wake-up is
    lost.

    In the log the events of created runs follow ``events``. A run to create whose id is taken is
    left as it is, and a message whose id is known changes nothing.
    """

    run: str
    epoch: int
    expected_seq: int
    events: Sequence[Event]
    row: RunRow
    deliver: Sequence[Message] = ()
    create: Sequence[NewRun] = ()
    consume: Sequence[int] = ()
    """Inbox numbers that ``events`` have taken in."""
    release: bool = False
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on a run: who advances it sends ``epoch`` with each append."""

    row: RunRow
    epoch: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A message of an inbox, read or not.

    ``taken`` is the length of the stream after the change that consumed it, 0 while it is unread.
    Once it was consumed an event has its payload, and the one here is empty.
    """

    n: int
    message: Message
    taken: int


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a run that comes from another store, as its events stand there.

    ``row`` is what the stream folds to after ``events``, which follow ``expected_seq`` others.
    ``inbox`` comes with the last part, in order; its numbers are the other store's and say nothing.
    """

    run: str
    expected_seq: int
    events: Sequence[Event]
    row: RunRow
    epoch: int
    """The other store's, not below any event's."""
    inbox: Sequence[Letter] = ()
    last: bool = False


class Snapshot(Protocol):
    """A store as it was at one moment: nothing that is written later shows, however long it lasts.

    Ids come in the order of their code points, so a run comes before those that it has started.
    """

    async def runs(self, *, prefix: str = "", after: str = "", limit: int) -> list[Standing]:
        """Return runs whose id begins with ``prefix`` and is larger than ``after``, by id."""
        ...

    async def events(self, run: str, *, after: int, limit: int) -> list[Event]:
        """Return a run's events behind seq ``after``, in order."""
        ...

    async def inbox(self, run: str, *, after: int, limit: int) -> list[Letter]:
        """Return a run's messages with ``n > after``, consumed ones included, oldest first."""
        ...

    async def strays(self, *, after: str, limit: int) -> list[str]:
        """Return ids above ``after`` that have messages and no run, by id."""
        ...


class Transaction(Protocol):
    """The log's own transaction, as a ``transactional`` body sees it."""

    def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement on the user's own tables and return its rows.

        Raises:
            UsageError: the statement would end the transaction or touch a table of holdfast's.
        """
        ...


class Store(Rests, Retention, Protocol):
    """Streams, their projections and their leases, durable together.

    A run may be claimed when nobody holds its lease and it is *ready*: it is ``pending`` or
    ``running``, or its ``wake_at`` is due, or its inbox holds a message newer than what it had
    ``seen`` when it was released. A run that has ended is never claimed. Times are µs since the
    epoch of Unix, given by the caller (a store with a clock of its own may use that one instead).
    What an awaited call has returned is durable.
    """

    url: str
    """How a command line names this store, such as ``sqlite:///…/holdfast.db``."""

    @property
    def signed(self) -> SignedLog:
        """What the store keeps for proofs."""
        ...

    async def create(self, new: NewRun, deliver: Sequence[Message] = ()) -> bool:
        """Create a run at epoch 0, claimable at once, and deliver messages.

        Returns False when the id is taken. The messages are delivered in either case, unless
        their id is known.

        Raises:
            SubjectErased: the run is on behalf of an erased subject; nothing was written.
        """
        ...

    def append(self, change: Append) -> Awaitable[None]:
        """Apply one change; the answer, which may be an ``Answer``, comes when it is durable.

        The change counts as made when ``append`` is called, awaited or not: changes of one run take
        effect in the order of the calls, and when one fails, so do those behind it. Appends of many
        runs may share a commit.

        Raises:
            Fenced: the run is at another epoch than the change.
            Conflict: the stream's length is not ``expected_seq``.
            StoreUnavailable: the disk is full, the file is locked for too long, … .
        """
        ...

    async def transact(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> None:
        """Run ``body`` in a transaction and apply the change it returns, both or neither.

        The epoch and length are checked before ``body`` runs. Whatever ``body`` raises undoes its
        statements and is raised here. ``body`` runs in whichever thread the store writes in.

        Raises:
            Fenced, Conflict, StoreUnavailable: as ``append`` does.
        """
        ...

    async def deliver(self, messages: Sequence[Message]) -> list[bool]:
        """Put messages from the outside into inboxes.

        False for each whose id the inbox has already seen.
        """
        ...

    async def claim(
        self,
        worker: str,
        *,
        now: int,
        lease_us: int,
        agents: Sequence[str],
        limit: int,
        run: str = "",
        family: str = "",
    ) -> list[Claim]:
        """Lease up to ``limit`` ready runs of these agents (URIs), those ready the longest first.

        Frees the runs of workers whose lease has run out (or which the store knows to be dead),
        renews this worker's, and raises each claimed run's epoch by one. A run is ready since its
        last event while it is pending or running, else since its ``wake_at`` or since the time of
        its oldest unread message that it had not seen, whichever came first.

        Those of a higher priority come first; among these, those of a key that holds fewer leases
        in their queue (``stores/lanes.py``). What is paused, or beyond its queue's limits, is not
        claimed.

        With ``run``, only that run is considered, and it need not be ready: any run that has not
        ended, is not paused and that nobody holds will do, whatever the limits. With ``family``,
        only that run and those it has started are considered: their ids begin with it and a slash.
        """
        ...

    async def pause(self, pause: Pause) -> bool:
        """Keep a run, a queue or an agent from being claimed; False when it is paused already.

        Who holds one of its runs is not stopped by this; a worker looks at ``pauses``.
        """
        ...

    async def resume(self, kind: str, name: str) -> bool:
        """Take a pause back; False when there is none."""
        ...

    async def pauses(self) -> list[Pause]:
        """Return all pauses, by kind and name."""
        ...

    async def limit(self, limits: QueueLimits) -> None:
        """Set the limits of a queue, in place of those it had."""
        ...

    async def queues(self, *, now: int) -> list[QueueInfo]:
        """Return the queues that have limits, or runs that are ready or held, by name."""
        ...

    async def register(self, worker: str, *, about: str, now: int, lease_us: int) -> None:
        """Make a worker known by what it says of itself, and renew its lease."""
        ...

    async def workers(self, *, now: int) -> list[WorkerInfo]:
        """Return the workers whose leases hold, by name."""
        ...

    async def renew(self, worker: str, *, now: int, lease_us: int) -> bool:
        """Extend all leases of a worker.

        False when they had run out, and then the worker owns nothing. One that never claimed may
        be told either.
        """
        ...

    async def release(self, worker: str) -> None:
        """Give up all leases of a worker that have not been released one by one."""
        ...

    async def read(
        self, run: str, *, after: int = 0, until: int = 0, limit: int = 0
    ) -> list[Event]:
        """Return a run's events with ``after < seq`` (``<= until`` unless 0), in order."""
        ...

    async def read_log(self, after: int, *, limit: int) -> list[tuple[int, Event]]:
        """Return (position, event) pairs of the whole log behind position ``after``, in order.

        A reader that continues after the last position it saw misses nothing and sees nothing
        twice.
        """
        ...

    async def unread(self, run: str, *, after: int = 0) -> list[InboxMessage]:
        """Return the unread messages of a run with ``n > after``, oldest first."""
        ...

    async def row(self, run: str) -> RunRow | None:
        """Return a run's row."""
        ...

    async def rows(
        self,
        *,
        prefix: str = "",
        status: Sequence[str] = (),
        agents: Sequence[str] = (),
        after: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        """Return rows, newest first by (created_at, run), beginning after that pair."""
        ...

    async def ready(self, agents: Sequence[str], *, now: int) -> bool:
        """Tell whether a claim would find a ready run, or a lost worker's runs to free.

        A run whose time has come since the last claim may count although it would not be found.
        """
        ...

    async def held(self, worker: str) -> list[Claim]:
        """Return what a worker holds: what it was given if the answer to a claim was lost."""
        ...

    async def mail(self, worker: str, *, after: int) -> tuple[int, list[InboxMessage]]:
        """Return the unread messages with ``n > after`` to runs that this worker holds, by n.

        The number beside them is the largest that any inbox has: where to look on from.
        """
        ...

    async def next_wake(self, agents: Sequence[str], *, after: int = 0) -> int:
        """Return the earliest ``wake_at`` of these agents' runs that nobody holds, 0 for none.

        Those that are not ``after`` a time are left out, and so are those that are ready before
        their time, for nobody needs to wake them.
        """
        ...

    async def changed(self, timeout_s: float, *, ready: bool = False) -> None:
        """Return when something may have changed since the last call, or after ``timeout_s``.

        With ``ready``, only what may make a run ready, or bring mail, need count. All who wait are
        told, but between two calls of one caller another may take the news. A hint only.
        """
        ...

    def snapshot(self, *, now: int) -> AbstractAsyncContextManager[Snapshot]:
        """Hold on to the store as it is, to copy it; leases that have run out by ``now`` count not.

        Writers are not held up.
        """
        ...

    async def receive(self, part: Part) -> None:
        """Take in a part of a run of another store: a new one, or more of one that nobody holds.

        Until the last part has come ``INCOMING`` holds the run, and nobody can claim it. With the
        last one its inbox is filled, where an id that is known changes nothing except that a
        consumed message counts as consumed here too, and the run may be claimed, at an epoch above
        both stores'.

        Raises:
            Conflict: a worker holds the run, or the part does not follow its stream.
        """
        ...

    async def subject(self, subject: str) -> Subject | None:
        """Return what is known of a subject."""
        ...

    async def subjects(self, *, after: str = "", limit: int) -> list[Subject]:
        """Return the subjects whose id is larger than ``after``, by id."""
        ...

    async def add_subject(self, subject: Subject) -> Subject:
        """Keep a subject and return it, or the one of that id that was there before."""
        ...

    async def erase(self, subject: str, told: NewRun) -> Erasure:
        """Destroy a subject's key and every payload under it, and create the run that tells so.

        All in one transaction. From then on the payloads of the subject's events are gone for good
        (and the salts inside them, so nothing can be compared with the leaves any more), and so are
        messages that nobody will read; nothing can be recorded under the subject again.

        Raises:
            UsageError: there is no such subject, or a run that has not ended holds, or is to get,
                a payload of it; nothing was changed.
            SubjectErased: it was erased before.
        """
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the file or the connections; twice is once."""
        ...


class Answer(Protocol):
    """What an ``append`` returns may be one: then nobody has to make a task to wait for it."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> object:
        """Have a callback called in the loop, not before this has returned."""
        ...

    def exception(self) -> BaseException | None:
        """Return the error that the append came to; raises CancelledError if it was cancelled."""
        ...


@dataclass(slots=True)
class StepCall:
    """What middleware sees of one attempt at a step."""

    run: str
    agent: str
    key: str
    name: str
    effect: str
    attempt: int
    args: dict[str, Any]
    """The decoded arguments by name."""
    labels: dict[str, str] = field(default_factory=dict)


Middleware = Callable[[StepCall, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""``async def middleware(call, proceed)``: stands around a step's body, in the order given to the
App, first outermost.

It may look at the call, delay it, raise instead of calling ``proceed()`` (``NotDone`` when nothing
has happened) or watch what comes back. It runs only where the body runs, never on replay.
"""


class Follower(Protocol):
    """Reads the log behind the writers and builds something from it, at its own pace."""

    name: str

    async def follow(self, events: AsyncIterator[tuple[int, Event]]) -> None:
        """Consume (position, event) pairs, in order.

        Keep the position with what is built, so as to resume.
        """
        ...
