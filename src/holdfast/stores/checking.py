"""The invariants that every store keeps, as checks of what its tables hold.

``sqlite/fsck.py`` and ``postgres/fsck.py`` read the tables, this says what must hold in them. Each
check names the run and event that does not hold, blames no neighbour, and goes on: of something
damaged as much is told as can be.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from holdfast.core import events as ev
from holdfast.core.events import Event
from holdfast.core.limits import LEAF_BYTES_MAX
from holdfast.core.state import ENDED, RunRow, fold
from holdfast.errors import StoreRefused
from holdfast.ports import INCOMING
from holdfast.stores.payloads import CHUNKED, GONE, chunk_hash, inflate, load
from holdfast.stores.subjects import is_of
from holdfast.stores.vault import WRAPPED_BYTES

__all__ = ["Checker", "Problem"]

_WORDS = ("$accept", "$cancel", "$resolve")
"""Topics of the words by which a person steers a run."""
_NOBODY = ("", "drain", "reconcile")
"""By whom a doubt is settled without such a word."""
_CHUNKS_KEPT = 4_096


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold. ``run`` is empty and ``seq`` 0 where there is none to name."""

    run: str
    seq: int
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        place = f"run {self.run!r} event {self.seq}: " if self.seq else f"run {self.run!r}: "
        return (
            f"{place if self.run else ''}{self.what}: expected {self.expected}, found {self.found}"
        )


class Checker:
    """One pass over a store; whoever reads its tables fills in the methods that raise."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.chunks: dict[int, bytes] = {}
        self.subjects: dict[str, str] = {}
        """Subject → the run that tells of its erasure, empty while it has its key."""
        self.collected_before = 0
        """Before which time runs must have ended of which payloads may be gone."""
        self.may_be_gone = False
        """Whether payloads of the run that is being checked may have been collected."""

    def letters(self, run: str) -> Sequence[tuple[str, str, int | None]]:
        """Return (id, topic, taken) of a run's messages, in order."""
        raise NotImplementedError

    def oldest_unread(self, run: str, seen: int) -> int | None:
        """Return when the oldest unread message with ``n > seen`` came."""
        raise NotImplementedError

    def knows_worker(self, worker: str) -> bool:
        """Tell whether there is such a worker."""
        raise NotImplementedError

    def chunk(self, number: int) -> Sequence[tuple[int, bytes]]:
        """Return the rows (form, data) of a chunk."""
        raise NotImplementedError

    def guard(self, run: str, seq: int, step: Callable[..., Any], *arguments: Any) -> Any:
        """Run a step; what it raises is a problem too."""
        try:
            return step(*arguments)
        except Exception as error:  # noqa: BLE001 - a damaged file may raise anything anywhere
            self.problem(run, seq, "reading", "no error", f"{type(error).__name__}: {error}")
            return None

    def problem(self, run: str, seq: int, what: str, expected: object, found: object) -> None:
        self.problems.append(Problem(run, seq, what, str(expected), str(found)))

    def check_subject(self, id_: str, key: bytes | None, erased: str, told: str | None) -> None:
        """A subject has its key, or a run that tells of its erasure."""
        self.subjects[id_] = erased
        if erased and told is None:
            self.problem("", 0, f"erasure of {id_!r}", f"run {erased!r}", "no such run")
        destroyed = key == bytes(WRAPPED_BYTES)
        if key is None or destroyed != bool(erased) or len(key) != WRAPPED_BYTES:
            expected = "none left" if erased else f"{WRAPPED_BYTES} bytes"
            found = "none" if key is None or destroyed else f"{len(key)} bytes"
            self.problem("", 0, f"key of subject {id_!r}", expected, found)

    def note_collection(self, leaf: bytes) -> None:
        """Take note of an event that may tell of a collection; of times to come none can tell."""
        event = ev.open_leaf(leaf)
        if isinstance(event.body, ev.PayloadsCollected):
            told = min(event.body.before, event.at)
            self.collected_before = max(self.collected_before, told)

    def check_chunk(self, n: int, digest: bytes, form: int, data: bytes) -> None:
        try:
            found = chunk_hash(inflate(form, data))
        except StoreRefused as error:
            self.problem("", 0, f"chunk {n}", f"bytes with hash {digest.hex()}", error)
        else:
            if found != digest:
                self.problem("", 0, f"chunk {n}", f"hash {digest.hex()}", found.hex())

    def check_run(
        self,
        row: RunRow,
        lease: tuple[int, str | None, int, int | None],
        places: Sequence[tuple[int, int]],
        read: Callable[[int, int], tuple[Any, ...]],
    ) -> None:
        """Check a run.

        Args:
            row: As its table has it.
            lease: Epoch, worker, seen and ready_at, likewise.
            places: The (seq, position) of its events, by seq.
            read: Returns (leaf, salt, form, payload) of the event with that seq and position.
        """
        epoch, worker, seen, ready_at = lease
        sound = len(self.problems)
        self.may_be_gone = row.status in ENDED and row.updated_at < self.collected_before
        events = [
            event
            for seq, pos in places
            if (event := self.guard(row.run, seq, self._read_event, row.run, seq, read, pos))
        ]
        self.check_order(row, places, events)
        if len(self.problems) == sound:
            self.guard(row.run, row.seq, self.check_fold, row, epoch, events)
        self.check_inbox(row, events)
        self.check_lease(row, worker, seen, ready_at)

    def _read_event(
        self, run: str, seq: int, read: Callable[[int, int], tuple[Any, ...]], pos: int
    ) -> Event | None:
        """Return an event that is well-formed and has its payload, and name what it lacks."""
        leaf, salt, form, stored = read(seq, pos)
        try:
            event = ev.open_leaf(leaf)
        except StoreRefused as error:
            self.problem(run, seq, "leaf", "an event", error)
            return None
        if not leaf.endswith(b"\n") or len(leaf) > LEAF_BYTES_MAX:
            self.problem(run, seq, "leaf", "one line", f"{len(leaf)} bytes, {leaf[-8:]!r} last")
        if (event.run, event.seq) != (run, seq):
            self.problem(run, seq, "leaf", f"run {run!r} seq {seq}", f"{event.run!r} {event.seq}")
        self.check_payload(event, salt, form, stored)
        return event

    def check_payload(
        self, event: Event, salt: bytes | None, form: int, stored: bytes | None
    ) -> None:
        run, seq = event.run, event.seq
        if not event.committed:
            if stored is not None or salt is not None:
                self.problem(run, seq, "payload", "none", "one that the leaf does not know of")
        elif event.sub:
            self.check_sealed(event, salt, form, stored)
        elif stored is None and salt is None and form == GONE and self.may_be_gone:
            return
        elif stored is None or salt is None:
            missing = "payload" if stored is None else "salt"
            self.problem(run, seq, missing, f"what {event.committed} commits to", "nothing")
        else:
            try:
                found = ev.commitment(salt, self.load(form, stored))
            except StoreRefused as error:
                self.problem(run, seq, "payload", event.committed, error)
                return
            if found != event.committed:
                self.problem(run, seq, "payload", event.committed, found)

    def check_sealed(
        self, event: Event, salt: bytes | None, form: int, stored: bytes | None
    ) -> None:
        """The payload of a subject is encrypted, or gone with its key; what it says is not seen."""
        run, seq, erased = event.run, event.seq, self.subjects.get(event.sub)
        if erased is None:
            self.problem(run, seq, "subject", f"one called {event.sub!r}", "none")
        elif erased:
            if stored is not None or form != GONE:
                self.problem(run, seq, "payload", f"none, erased by {erased}", "one")
        elif stored is None and form == GONE and self.may_be_gone:
            return
        elif stored is None:
            self.problem(run, seq, "payload", f"what {event.committed} commits to", "nothing")
        elif salt is not None or not is_of(event.sub, self.load(form, stored)):
            self.problem(run, seq, "payload", f"one sealed for {event.sub!r}", "another")

    def check_order(
        self, row: RunRow, places: Sequence[tuple[int, int]], events: Sequence[Event]
    ) -> None:
        """Seqs count up without a gap, positions and epochs rise, hashes chain."""
        last_pos = 0
        for expected, (seq, pos) in enumerate(places, 1):
            if seq != expected:
                self.problem(row.run, expected, "seq", expected, seq)
                break
            if pos <= last_pos:
                self.problem(row.run, seq, "position", f"above {last_pos}", pos)
            last_pos = pos
        if len(places) != row.seq:
            self.problem(row.run, row.seq, "length of the stream", row.seq, len(places))
        for one, two in pairwise(events):
            if two.epoch < one.epoch:
                self.problem(row.run, two.seq, "epoch", f"{one.epoch} or above", two.epoch)
        for seq, recorded, found in _altered(row, events):
            self.problem(row.run, seq, "leaf hash", recorded, found)

    def check_fold(self, row: RunRow, epoch: int, events: Sequence[Event]) -> None:
        """The row is what the events fold to."""
        state = fold(events)
        expected = state.row()
        for name, want, got in zip(RunRow._fields, expected, row, strict=True):
            if want != got:
                self.problem(row.run, row.seq, f"row.{name}", repr(want), repr(got))
        if epoch < state.epoch:
            self.problem(row.run, row.seq, "row.epoch", f"{state.epoch} or above", epoch)

    def check_inbox(self, row: RunRow, events: Sequence[Event]) -> None:
        """What events took in was consumed, and what was consumed was taken in."""
        took, words = _taken_in(events)
        consumed: set[str] = set()
        said: dict[str, list[int]] = {topic: [] for topic in _WORDS}
        for id_, topic, taken in self.letters(row.run):
            if not taken:
                continue  # unread, or erased unread
            consumed.add(id_)
            if topic in _WORDS:
                said[topic].append(taken)
            elif not (1 <= taken <= row.seq and took.get(id_, taken + 1) <= taken):
                what = f"message {id_!r}"
                self.problem(row.run, taken, what, f"taken in up to event {taken}", "no event")
        for id_ in sorted(took.keys() - consumed):
            self.problem(row.run, took[id_], f"message {id_!r}", "consumed", "not in the inbox")
        for topic in _WORDS:
            self.check_words(row, topic, words[topic], sorted(said[topic]))

    def check_words(
        self, row: RunRow, topic: str, seqs: Sequence[int], taken: Sequence[int]
    ) -> None:
        """Each event that a person's word led to has a message of its own, consumed with it.

        These events do not name their message, so they are counted.
        """
        what = f"a {topic} message"
        for n, seq in enumerate(seqs):
            if n >= len(taken):
                self.problem(row.run, seq, what, "consumed with this event", "none")
            elif taken[n] < seq and topic != "$resolve":
                self.problem(row.run, seq, what, "consumed with this event", f"at {taken[n]}")
        for seq in taken:
            if not 1 <= seq <= row.seq:
                self.problem(row.run, seq, what, f"consumed by event {row.seq} at most", seq)
        if topic != "$resolve" and len(taken) > len(seqs):  # one that came late settles nothing
            seq = taken[len(seqs)]
            self.problem(row.run, seq, what, f"an event that it led to up to {seq}", "none")

    def check_lease(self, row: RunRow, worker: str | None, seen: int, ready_at: int | None) -> None:
        expected: int | None
        if worker is not None:
            expected = None
            known = worker == INCOMING or self.knows_worker(worker)
            if not known:
                self.problem(row.run, 0, "lease", f"worker {worker!r}", "no such worker")
        elif row.status in ("pending", "running"):
            expected = row.updated_at
        elif row.status in ENDED:
            expected = None
        else:
            expected = self.oldest_unread(row.run, seen)
        noticed = row.wake_at > 0 and ready_at == row.wake_at and worker is None
        if noticed and (expected is None or row.wake_at < expected):
            return  # a claim has noticed that its time had come
        if ready_at != expected:
            self.problem(row.run, 0, "ready_at", expected, ready_at)

    def check_letter(self, letter: tuple[Any, ...]) -> None:
        """An unread message has its payload, and one without a run was not consumed.

        Args:
            letter: Its n, run, form, payload, taken, and whether there is the run.
        """
        n, run, form, payload, taken, known = letter
        what = f"inbox number {n}"
        if form == GONE and payload is None and taken == 0:
            return
        if taken is not None and not known:
            self.problem(run, 0, what, "a run that consumed it", "no such run")
        if (taken is None) != (payload is not None):
            wanted = "a payload" if taken is None else "no payload once it was consumed"
            self.problem(run, 0, what, wanted, "none" if payload is None else "one")
        elif payload is not None:
            self.guard(run, 0, self.load, form, payload)

    def load(self, form: int, stored: bytes) -> bytes:
        return load(form, stored, self.fetch) if form == CHUNKED else inflate(form, stored)

    def fetch(self, number: int) -> bytes:
        if number not in self.chunks:
            found = self.chunk(number)
            if not found:
                raise StoreRefused(f"chunk {number} is missing.")
            if len(self.chunks) >= _CHUNKS_KEPT:
                self.chunks.clear()
            self.chunks[number] = inflate(*found[0])
        return self.chunks[number]


def _taken_in(events: Sequence[Event]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Return message id → seq of the event that took it in, and topic → seqs of what words did."""
    took: dict[str, int] = {}
    words: dict[str, list[int]] = {topic: [] for topic in _WORDS}
    for event in events:
        match event.body:
            case ev.MessageReceived(id=id_) | ev.TurnStarted(message=id_) if id_:
                took[id_] = event.seq
            case ev.ChildFinished(child=child):
                took[f"{child}/done"] = event.seq
            case ev.CancelRequested():
                words["$cancel"].append(event.seq)
            case ev.RunAccepted():
                words["$accept"].append(event.seq)
            case ev.StepResolved(by=by) if by not in _NOBODY:
                words["$resolve"].append(event.seq)
            case _:
                pass
    return took, words


def _altered(row: RunRow, events: Sequence[Event]) -> Iterator[tuple[int, str, str]]:
    """Yield (seq, recorded hash, found hash) of the events that are not what others say of them."""
    recorded = {event.seq - 1: event.prev for event in events} | {row.seq: row.head}
    by_seq = {event.seq: event for event in events}
    for seq, event in by_seq.items():
        old = recorded.get(seq, event.hash)
        after = by_seq.get(seq + 1)
        if event.hash == old:
            continue
        if after and after.hash != (known := recorded.get(seq + 1, after.hash)):
            mended = after.leaf.replace(old.encode(), event.hash.encode())
            if ev.leaf_hash(mended) == known:
                continue  # the successor's `prev` was altered, not this event
        yield seq, old, event.hash
    if recorded.get(0, ev.GENESIS) != ev.GENESIS and 1 in by_seq:
        yield 1, ev.GENESIS, recorded[0]
