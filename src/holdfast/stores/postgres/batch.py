"""One transaction for the changes of many runs: what is sent, and what its answer means.

A batch locks the rows of all runs that it touches, in the order of their ids; then one statement
fences each run's epoch, checks its length and head, and writes for those that passed. A run that
did not pass has written nothing, and its neighbours never notice. Changes of one run that continue
each other travel as one *chain*: one check lets all of them through or none.

When an answer was lost, the batch is sent once more as *doubtful*: the epoch and length keep it
from being written twice, the locks wait for whatever the old connection may still be doing, and a
run whose event stands where ours would is one that had gone through.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from holdfast.core.events import Event
from holdfast.core.state import RunRow
from holdfast.errors import Conflict, Fenced
from holdfast.ports import Append, Message, NewRun
from holdfast.stores.fencing import check_place
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Round, Row
from holdfast.stores.postgres.payloads import Chunks, Fresh, Stored
from holdfast.stores.postgres.queries import cause_text
from holdfast.stores.postgres.values import Bytes, Ints, Texts

__all__ = ["Batch", "Birth", "Chain", "Post", "Write", "fault"]

_GOING = ("pending", "running")


@dataclass(slots=True)
class Chain:
    """Changes of one run, each continuing the last; one that makes no sense stands alone."""

    changes: list[Append]


@dataclass(frozen=True, slots=True)
class Birth:
    """A run to create unless its id is taken, and messages to deliver in either case."""

    new: NewRun
    deliver: Sequence[Message] = ()


@dataclass(frozen=True, slots=True)
class Post:
    """Messages from the outside."""

    messages: Sequence[Message]


Write: TypeAlias = Chain | Birth | Post
Answer: TypeAlias = Exception | bool | list[bool] | None


@dataclass(slots=True)
class Batch:
    """Some writes, sent together; no two of them deliver one message or create one run."""

    writes: Sequence[Write]
    fresh: Fresh = field(default_factory=Fresh)

    def flow(self, chunks: Chunks, *, doubtful: bool = False) -> Flow[list[Answer]]:
        """Send all and return an answer each: an error of ours, or what the store's method does."""
        self.fresh = Fresh()
        columns = _Columns()
        for i, write in enumerate(self.writes, 1):
            columns.add(i, write)
        stored = yield from chunks.keep(columns.payloads, self.fresh)
        rounds: Round = []
        if doubtful:
            rounds.append((sql.MARK, ()))
        if columns.letters:
            rounds.append((sql.DELIVERING, ()))
        rounds.append((sql.LOCK_RUNS, (Texts(sorted(columns.touched)),)))
        rounds += self.fresh.round()
        rounds.append(columns.statement(stored))
        if columns.unsettled:
            rounds.append((sql.SETTLE, (Texts(sorted(columns.unsettled)),)))
        if doubtful:
            ends = [*_ends(self.writes)]
            asked = Texts([event.run for event in ends]), Ints([event.seq for event in ends])
            rounds.append((sql.SEEN, asked))
        rows = yield rounds
        answered = {statement: found for (statement, _), found in zip(rounds, rows, strict=True)}
        places = {run: (epoch, seq, head) for run, epoch, seq, head in answered[sql.LOCK_RUNS]}
        done = {tuple(row) for row in answered[columns.sql]}
        seen = {(run, seq): leaf for run, seq, leaf in answered.get(sql.SEEN, ())}
        return [self._answer(i, w, places, done, seen) for i, w in enumerate(self.writes, 1)]

    def witness(self) -> Flow[bool]:
        """Tell whether all of it stands in the store, without writing it.

        Whatever may still be writing it holds the locks, so it has ended by the time of the answer.
        """
        ends = _ends(self.writes)
        asked = Texts([event.run for event in ends]), Ints([event.seq for event in ends])
        *_, rows = yield [(sql.MARK, ()), (sql.LOCK_RUNS, asked[:1]), (sql.SEEN, asked)]
        seen = {(run, seq): leaf for run, seq, leaf in rows}
        return all(seen.get((event.run, event.seq)) == event.leaf for event in ends)

    def _answer(
        self,
        i: int,
        write: Write,
        places: dict[str, tuple[int, int, str]],
        done: set[Row],
        seen: dict[tuple[str, int], bytes],
    ) -> Answer:
        ours = any(seen.get((event.run, event.seq)) == event.leaf for event in _ends([write]))
        match write:
            case Chain(changes):
                if ours or (0, i, "", "") in done:
                    return None
                return _refusal(changes[0], places.get(changes[0].run))
            case Birth(new):
                return ours or (1, 0, new.row.run, "") in done
            case Post(messages):
                arrived = []
                for message in messages:
                    mark = (2, 0, message.to, message.id)
                    arrived.append(mark in done)
                    done.discard(mark)  # the same once more has arrived before
                return arrived


def fault(change: Append) -> str:
    """Return why a change makes no sense in itself, empty when it does."""
    seq, row = change.expected_seq, change.row
    head = change.events[0].prev if change.events else row.head
    for event in change.events:
        seq += 1
        if event.seq != seq or event.prev != head or event.epoch != change.epoch:
            return f"{event} cannot follow event {seq - 1} with the leaf hash {head}"
        head = event.hash
    if row.seq != seq or row.head != head or row.run != change.run:
        return f"{row} is not what the run is after event {seq} with the leaf hash {head}"
    return ""


def _refusal(change: Append, place: tuple[int, int, str] | None) -> Exception:
    try:
        check_place(change.run, change.epoch, change.expected_seq, place and place[:2])
    except (Fenced, Conflict, AssertionError) as error:
        return error
    return AssertionError(
        fault(change) or f"run {change.run!r}: {place} is not what {change} continues"
    )


def _ends(writes: Sequence[Write]) -> list[Event]:
    """Return the last event of each write: whoever finds it in the store knows it went through."""
    ends: list[Event] = []
    for write in writes:
        match write:
            case Chain(changes):
                ends += [event for change in changes for event in change.events][-1:]
            case Birth(new):
                ends.append(new.events[-1])
            case _:
                pass
    return ends


@dataclass(slots=True)
class _Columns:
    """The rows of a batch, as they are gathered; a payload is known by its number."""

    payloads: list[bytes | None] = field(default_factory=list)
    moves: list[Row] = field(default_factory=list)
    births: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)
    takes: list[Row] = field(default_factory=list)
    letters: list[Row] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    """Runs whose rows must be locked."""
    unsettled: set[str] = field(default_factory=set)
    """Runs that may have become ready."""
    sql: str = ""
    _known: set[tuple[str, str]] = field(default_factory=set)

    def add(self, i: int, write: Write) -> None:
        """Gather what a write is made of; ``i`` is its number, from 1."""
        match write:
            case Chain([change]) if fault(change):
                self.touched.add(change.run)  # locked, to find out how to refuse it
            case Chain(changes):
                self._move(i, changes[0], changes[-1])
                for change in changes:
                    self._change(i, change)
            case Birth(new, deliver):
                self._birth(0, new)
                self._deliver(0, deliver)
            case Post(messages):
                self._deliver(0, messages)

    def statement(self, stored: Sequence[Stored]) -> tuple[str, list[Any]]:
        """Return the statement that writes it all; ``stored`` says how payloads are kept."""
        values: list[Any] = []
        if self.moves:
            values += _columns(self.moves, _MOVE_KINDS)
        if self.births:
            values += _columns(self.births, _BIRTH_KINDS)
        if self.events:
            filled = [(*row, *stored[n]) for *row, n in self.events]
            values += _columns(filled, _EVENT_KINDS)
            values += _columns(self.notes, _NOTE_KINDS)
        if self.takes:
            values += _columns(self.takes, _TAKE_KINDS)
        if self.letters:
            filled = [(*row, *stored[n]) for *row, n in self.letters]
            values += _columns(filled, _LETTER_KINDS)
        self.sql = sql.write(
            moves=bool(self.moves),
            births=bool(self.births),
            adds=bool(self.events),
            takes=bool(self.takes),
            sends=bool(self.letters),
        )
        return self.sql, values

    def _move(self, i: int, first: Append, last: Append) -> None:
        row = last.row
        head = first.events[0].prev if first.events else first.row.head
        self.touched.add(row.run)
        if last.release:
            self.unsettled.add(row.run)
        self.moves.append(
            (
                *(i, row.run, first.epoch, first.expected_seq, head),
                *(row.status, row.seq, row.head, row.turn, row.turn_seq, row.state_seq),
                *(row.wake_at, row.updated_at, int(last.release), last.seen),
            )
        )

    def _change(self, i: int, change: Append) -> None:
        self._events(i, "", change.events)
        self.takes += [(i, change.run, n, change.row.seq) for n in change.consume]
        for new in change.create:
            self._birth(i, new)
        self._deliver(i, change.deliver)

    def _birth(self, i: int, new: NewRun) -> None:
        if any(row[1] == new.row.run for row in self.births):
            return
        self.births.append((i, *new.row))
        self._events(0, new.row.run, new.events)
        if new.row.status not in _GOING:
            self.unsettled.add(new.row.run)

    def _events(self, i: int, run: str, events: Sequence[Event]) -> None:
        for event in events:
            self.events.append((i, run, event.seq, event.leaf, event.salt, len(self.payloads)))
            self.payloads.append(event.payload)
        if events:
            self.notes.append((i, run, events[0].seq, len(events)))

    def _deliver(self, i: int, messages: Sequence[Message]) -> None:
        for message in messages:
            if (message.to, message.id) in self._known:
                continue
            self._known.add((message.to, message.id))
            self.touched.add(message.to)
            self.unsettled.add(message.to)
            cause = cause_text(message)
            self.letters.append(
                (
                    *(i, message.to, message.id, message.topic, message.at, message.sender),
                    *(cause, len(self.payloads)),
                )
            )
            self.payloads.append(message.payload)


_MOVE_KINDS = (Ints, Texts, *[Ints] * 2, *[Texts] * 2, Ints, Texts, *[Ints] * 7)
_BIRTH_KINDS = (
    Ints,
    *(Texts if kind is str else Ints for kind in RunRow.__annotations__.values()),
)
_EVENT_KINDS = (Ints, Texts, Ints, Bytes, Bytes, Ints, Bytes)
_NOTE_KINDS = (Ints, Texts, Ints, Ints)
_TAKE_KINDS = (Ints, Texts, Ints, Ints)
_LETTER_KINDS = (Ints, *[Texts] * 3, Ints, *[Texts] * 2, Ints, Bytes)


def _columns(rows: Sequence[Row], kinds: Sequence[type[Any]]) -> list[Any]:
    return [kind(column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)]
