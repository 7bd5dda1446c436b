"""The chunks of a store in PostgreSQL: which are there, and where new ones go.

A flow: it asks which parts are stored already and draws numbers for the others; whoever sends the
batch inserts these in the same transaction. So a chunk never waits for a commit of its own, and a
batch that was undone leaves nothing behind. See ``stores/payloads.py`` for the trees.

Invariants: a chunk's bytes never change; of what is not committed nothing is remembered. A sweep
may remove a chunk that is known here (``retention.py``), so a batch shares a lock with sweeps and
fails with ``SWEPT`` if a chunk that it refers to is not there any more: whoever sent it forgets
what was known and sends it once more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from holdfast.errors import StoreRefused
from holdfast.stores.payloads import (
    CHUNKED,
    PLAIN,
    chunk_hash,
    deflate,
    inflate,
    load,
    parse_node,
    parse_root,
    split,
)
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Round
from holdfast.stores.postgres.values import Bytes, Ints

__all__ = ["SWEPT", "Chunks", "Fresh", "Stored", "loaded"]

Stored = tuple[int, bytes | None]
"""A payload as its row has it: form and bytes."""

SWEPT = psycopg.errors.DivisionByZero
"""What ``ARE_THERE`` fails with."""
_KNOWN_MAX = 20_000


@dataclass(slots=True)
class Fresh:
    """The chunks that a batch brings, and those that it finds."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    """Hash → number."""
    parts: list[bytes] = field(default_factory=list)
    found: set[int] = field(default_factory=set)
    """Numbers of those that are there already."""

    def round(self) -> Round:
        """Return what inserts them, and fails if one that was found is gone."""
        if not self.parts and not self.found:
            return []
        statements: Round = [(sql.USING_CHUNKS, ())]
        if self.found:
            statements.append((sql.ARE_THERE, (len(self.found), Ints([*self.found]))))
        if self.parts:
            kept = [deflate(part) for part in self.parts]
            values = (
                Ints([*self.numbers.values()]),
                Bytes([*self.numbers]),
                Ints([form for form, _ in kept]),
                Bytes([data for _, data in kept]),
            )
            statements.append((sql.KEEP, values))
        return statements


class Chunks:
    """What is known of the chunks in a store."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        """Hash → number, of chunks seen lately."""

    def forget(self) -> None:
        """Forget all: another server answers now."""
        self._known.clear()

    def committed(self, fresh: Fresh) -> None:
        """Remember chunks that are stored for good."""
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()
        self._known |= fresh.numbers

    def keep(self, payloads: Sequence[bytes | None], fresh: Fresh) -> Flow[list[Stored]]:
        """Return how the row of each payload holds it; ``fresh`` gets the chunks to insert."""
        stored: list[Stored] = [(PLAIN, None)] * len(payloads)
        splitting = {n: split(payload) for n, payload in enumerate(payloads) if payload is not None}
        waiting: dict[int, list[bytes]] = {}
        numbers: dict[int, list[int]] = {}
        while splitting:
            waiting.clear()
            for n, generator in [*splitting.items()]:
                try:
                    waiting[n] = generator.send(numbers[n]) if n in numbers else next(generator)
                except StopIteration as end:
                    stored[n] = end.value
                    del splitting[n]
            numbers = yield from self._numbers(waiting, fresh)
        return stored

    def _numbers(self, waiting: dict[int, list[bytes]], fresh: Fresh) -> Flow[dict[int, list[int]]]:
        """Return the numbers of the parts of each payload, drawn for those not stored yet."""
        hashes = {n: [chunk_hash(part) for part in parts] for n, parts in waiting.items()}
        parts = {
            digest: part
            for n, digests in hashes.items()
            for digest, part in zip(digests, waiting[n], strict=True)
        }
        numbers = {d: n for d in parts if (n := self._known.get(d) or fresh.numbers.get(d))}
        asked = [digest for digest in parts if digest not in numbers]
        if asked:
            stored, drawn = yield [
                (sql.KNOWN_CHUNKS, (Bytes(asked),)),
                (sql.NUMBERS, (len(asked),)),
            ]
            self._known |= stored
            numbers |= stored
            free = iter(drawn)
            for digest in asked:
                if digest not in numbers:
                    (numbers[digest],) = next(free)
                    fresh.numbers[digest] = numbers[digest]
                    fresh.parts.append(parts[digest])
        fresh.found.update(n for digest, n in numbers.items() if digest not in fresh.numbers)
        return {n: [numbers[digest] for digest in digests] for n, digests in hashes.items()}


def loaded(rows: Sequence[Stored]) -> Flow[list[bytes | None]]:
    """Return the payloads that rows hold; all chunks of one level are fetched together."""
    chunks: dict[int, bytes] = {}
    frontier: dict[int, set[int]] = {}
    for form, stored in rows:
        if form == CHUNKED and stored is not None:
            height, _, numbers = parse_root(stored)
            frontier.setdefault(height, set()).update(numbers)
    for height in range(max(frontier, default=-1), -1, -1):
        wanted = [n for n in frontier.get(height, ()) if n not in chunks]
        if wanted:
            (found,) = yield [(sql.LOAD_CHUNKS, (Ints(wanted),))]
            chunks |= {n: inflate(form, data) for n, form, data in found}
        if height:
            below = frontier.setdefault(height - 1, set())
            for number in frontier[height]:
                below.update(parse_node(_chunk(chunks, number)))
    return [
        None if stored is None else load(form, stored, lambda n: _chunk(chunks, n))
        for form, stored in rows
    ]


def _chunk(chunks: dict[int, bytes], number: int) -> bytes:
    if number not in chunks:
        raise StoreRefused(f"chunk {number} is missing from the store: it is damaged.")
    return chunks[number]
