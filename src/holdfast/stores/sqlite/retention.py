"""Retention in a store file: payloads of ended runs go, and then the chunks that nobody has.

Marking reads along positions and inbox numbers, which only ever grow, so what was read need not be
read again. Whatever a removed page of the file held is free for what comes; the file itself does
not shrink.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from holdfast.core.state import ENDED
from holdfast.retention import Ended, Swept
from holdfast.stores.collecting import TOGETHER, Marks, check_told, is_operators
from holdfast.stores.payloads import CHUNKED, GONE, inflate

__all__ = ["Sweep", "collect", "ended"]

All = Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]]
"""Runs a statement and returns its rows."""

_PAGE = 20_000
"""Positions, messages or chunks that are looked at together."""

_OVER = f"({', '.join(repr(status) for status in sorted(ENDED))})"
_ENDED = f"""
SELECT id, count(payload), coalesce(sum(length(payload)), 0)
FROM (
  SELECT n, id FROM run
  WHERE id > ? AND id NOT GLOB '$*' AND status IN {_OVER} AND updated_at < ? ORDER BY id LIMIT ?
) AS old JOIN event ON event.run = old.n GROUP BY id ORDER BY id"""  # noqa: S608 - constants
_COLLECT = f"""
UPDATE event SET salt = NULL, form = {GONE}, payload = NULL
WHERE payload NOTNULL AND run = (SELECT n FROM run WHERE id = ? AND status IN {_OVER})"""  # noqa: S608 - constants
_STANDS = "SELECT 1 FROM run WHERE id = ?"
_LAST = """
SELECT coalesce((SELECT max(pos) FROM event), 0), coalesce((SELECT max(n) FROM inbox), 0)"""
_OF_EVENTS = f"""
SELECT payload FROM event WHERE pos > ? AND pos <= ? AND form = {CHUNKED} AND payload NOTNULL"""  # noqa: S608 - constants
_OF_INBOX = f"""
SELECT payload FROM inbox WHERE n > ? AND n <= ? AND form = {CHUNKED} AND payload NOTNULL"""  # noqa: S608 - constants
_NODE = "SELECT form, data FROM chunk WHERE n = ?"
_CHUNKS = "SELECT n, length(data) FROM chunk WHERE n < ? ORDER BY n DESC LIMIT ?"
_REMOVE = "DELETE FROM chunk WHERE n = ?"


def ended(all_: All, before: int, after: str, limit: int) -> list[Ended]:
    """Return what ``Store.ended`` does."""
    return [Ended(*row) for row in all_(_ENDED, (after, before, limit))]


def collect(all_: All, runs: Sequence[str], told: str) -> None:
    """Do what ``Store.collect`` does, in the open transaction."""
    check_told(told, stands=bool(all_(_STANDS, (told,))))
    for run in runs:
        if not is_operators(run):
            all_(_COLLECT, (run,))


class Sweep:
    """One sweep of a file, from its beginning to its end."""

    def __init__(self) -> None:
        self._marks = Marks()
        self._marked = [0, 0]
        """The last position and the last inbox number that were looked at."""
        self._below = 2**62
        """Chunks from this number on have been looked at."""

    def mark(self, all_: All) -> bool:
        """Mark what a page of events and messages has; False when there are no more."""
        (last,) = all_(_LAST, ())
        for kind, statement in enumerate((_OF_EVENTS, _OF_INBOX)):
            begin = self._marked[kind]
            end = max(begin, min(begin + _PAGE, last[kind]))
            self._mark(all_, [root for (root,) in all_(statement, (begin, end))])
            self._marked[kind] = end
        return any(marked < end for marked, end in zip(self._marked, last, strict=True))

    def remove(self, all_: All) -> Swept | None:
        """Remove some chunks that nobody has, in the open transaction; None when all were seen."""
        while self.mark(all_):
            pass
        sizes: dict[int, int] = dict(all_(_CHUNKS, (self._below, _PAGE)))
        if not sizes:
            return None
        unused = self._marks.unused(sizes)
        self._below = unused[-1] if len(unused) == TOGETHER else min(sizes)
        for number in unused:
            all_(_REMOVE, (number,))
        return Swept(len(unused), sum(sizes[number] for number in unused))

    def _mark(self, all_: All, roots: Sequence[bytes]) -> None:
        marking = self._marks.mark(roots)
        with suppress(StopIteration):
            numbers = next(marking)
            while True:
                numbers = marking.send(_nodes(all_, numbers))


def _nodes(all_: All, numbers: Sequence[int]) -> Iterator[bytes]:
    for number in numbers:
        for form, data in all_(_NODE, (number,)):
            yield inflate(form, data)
