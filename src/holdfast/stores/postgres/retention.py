"""Retention in PostgreSQL: payloads of ended runs go, and then the chunks that nobody has.

Whoever writes chunks, or has a payload refer to some that are there, shares a lock until the
transaction ends, and sees under it that they are still there (``payloads.py``). A sweep marks
without that lock, then takes it alone for each batch that it removes: what has come since it began
to mark is then committed, and found behind a position, or not placed yet.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from holdfast.core.state import ENDED
from holdfast.retention import Ended, Swept
from holdfast.stores.collecting import TOGETHER, Marks, check_told
from holdfast.stores.payloads import CHUNKED, GONE, inflate
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Row, single
from holdfast.stores.postgres.link import Link, backoff_s
from holdfast.stores.postgres.values import Ints, Texts

__all__ = ["RetentionInPostgres"]

T = TypeVar("T")

_RUNS, _LETTERS, _CHUNKS = 500, 20_000, 20_000
"""What is looked at together."""

_OVER = f"({', '.join(repr(status) for status in sorted(ENDED))})"
_OLD = f"""
SELECT id, count(payload), coalesce(sum(octet_length(payload)), 0)::bigint
FROM (
  SELECT n, id FROM holdfast.run
  WHERE id > %s AND left(id, 1) <> '$' AND status IN {_OVER} AND updated_at < %s
  ORDER BY id LIMIT %s
) AS old JOIN holdfast.event ON event.run = old.n GROUP BY id ORDER BY id"""  # noqa: S608 - constants
_COLLECT = f"""
UPDATE holdfast.event SET salt = NULL, form = {GONE}, payload = NULL
FROM holdfast.run
WHERE event.run = run.n AND run.id = ANY(%s) AND left(run.id, 1) <> '$' AND run.status IN {_OVER}
  AND payload IS NOT NULL"""  # noqa: S608 - constants
_LAST = """
SELECT
  coalesce((SELECT pos FROM holdfast.placed ORDER BY pos DESC LIMIT 1), 0),
  coalesce((SELECT max(n) FROM holdfast.inbox), 0),
  coalesce((SELECT max(n) FROM holdfast.run), 0)"""
_HAS = f"form = {CHUNKED} AND payload IS NOT NULL"
_OF_RUNS = f"SELECT payload FROM holdfast.event WHERE run > %s AND run <= %s AND {_HAS}"  # noqa: S608 - constants
_OF_NOTES = f"""
SELECT payload FROM holdfast.event JOIN holdfast.@NOTES AS note
  ON event.run = note.run AND event.seq >= note.seq AND event.seq < note.seq + note.count
WHERE {_HAS}"""  # noqa: S608 - constants
_OF_UNPLACED = _OF_NOTES.replace("@NOTES", "unplaced")
_OF_PLACED = _OF_NOTES.replace("@NOTES", "placed") + " AND note.pos >= %s"
_OF_INBOX = f"SELECT payload FROM holdfast.inbox WHERE n > %s AND n <= %s AND {_HAS}"  # noqa: S608 - constants
_SIZES = """
SELECT n, octet_length(data) FROM holdfast.chunk WHERE n < %s ORDER BY n DESC LIMIT %s"""
_REMOVE = "DELETE FROM holdfast.chunk WHERE n = ANY(%s)"
_ALL = 2**62


class _Sweep:
    """One sweep of a store, from its beginning to its end."""

    def __init__(self, pos: int, letter: int, run: int) -> None:
        """Begin at what ``_LAST`` has found."""
        self._marks = Marks()
        self._pos = pos
        """Where the last block of events began that had a position before marking began."""
        self._letter = letter
        self.runs = range(0, run, _RUNS)
        self.letters = range(0, letter, _LETTERS)
        self._below = _ALL

    def mark(self, statement: str, *values: int) -> Flow[None]:
        """Mark what the roots that a statement finds lead to."""
        (rows,) = yield [(statement, values)]
        yield from self._mark(rows)

    def remove(self) -> Flow[Swept | None]:
        """Remove some chunks that nobody has; None when all were seen. One transaction."""
        yield [(sql.SWEEPING, ())]
        *_, last, unplaced, placed, letters = yield [
            (_LAST, ()),  # before what it bounds
            (_OF_UNPLACED, ()),  # before it may be placed
            (_OF_PLACED, (self._pos,)),
            (_OF_INBOX, (self._letter, _ALL)),
        ]
        for rows in (unplaced, placed, letters):
            yield from self._mark(rows)
        self._pos, self._letter, _ = last[0]
        (found,) = yield [(_SIZES, (self._below, _CHUNKS))]
        sizes: dict[int, int] = dict(found)
        if not sizes:
            return None
        unused = self._marks.unused(sizes)
        self._below = unused[-1] if len(unused) == TOGETHER else min(sizes)
        yield [(_REMOVE, (Ints(unused),))]
        return Swept(len(unused), sum(sizes[number] for number in unused))

    def _mark(self, rows: Sequence[Row]) -> Flow[None]:
        marking = self._marks.mark([bytes(root) for (root,) in rows])
        try:
            numbers = next(marking)
            while True:
                (found,) = yield [(sql.LOAD_CHUNKS, (Ints(numbers),))]
                numbers = marking.send([inflate(form, bytes(data)) for _, form, data in found])
        except StopIteration:
            return


class RetentionInPostgres:
    """What a ``PostgresStore`` does with payloads that have had their time."""

    _far: Link
    _patience_s: float

    async def ended(self, *, before: int, after: str = "", limit: int) -> list[Ended]:
        found = await self._ask(self._far, lambda: single(_OLD, after, before, limit))
        return [Ended(*row) for row in found]

    async def collect(self, runs: Sequence[str], told: str) -> None:
        self._writing()
        check_told(told, stands=await self._stands(told))
        await self._ask(self._far, lambda: single(_COLLECT, Texts(runs)))

    async def sweep(self) -> Swept:
        self._writing()
        ((pos, letter, run),) = await self._ask(self._far, lambda: single(_LAST))
        sweep = _Sweep(pos, letter, run)
        for begin in sweep.runs:
            await self._marked(sweep, _OF_RUNS, begin, begin + _RUNS)
        for begin in sweep.letters:
            await self._marked(sweep, _OF_INBOX, begin, begin + _LETTERS)
        chunks = size = 0
        while (swept := await self._whole(sweep.remove())) is not None:
            chunks, size = chunks + swept.chunks, size + swept.bytes
        return Swept(chunks, size)

    async def _marked(self, sweep: _Sweep, statement: str, *values: int) -> None:
        await self._ask(self._far, lambda: sweep.mark(statement, *values))

    async def _stands(self, told: str) -> bool:
        """Tell whether a run is in the log; its events are given positions if they have none."""
        loop = asyncio.get_running_loop()
        deadline, attempt = loop.time() + self._patience_s, 0
        while True:
            await self._place()
            if await self._ask(self._far, lambda: single(sql.INDEX, 1, told)):
                return True
            attempt += 1
            if loop.time() > deadline or not await self.row(told):
                return False
            await asyncio.sleep(backoff_s(attempt))

    def _writing(self) -> object:
        raise NotImplementedError

    async def row(self, run: str) -> Any:
        raise NotImplementedError

    async def _place(self) -> int:
        raise NotImplementedError

    async def _whole(self, flow: Flow[T]) -> T:
        raise NotImplementedError

    async def _ask(
        self, link: Link, question: Callable[[], Flow[T]], *, patience_s: float | None = None
    ) -> T:
        raise NotImplementedError
