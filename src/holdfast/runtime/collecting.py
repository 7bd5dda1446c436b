"""Payloads of runs that ended long ago are let go, and the log says so first.

Invariant: before the first payload goes, an event that says which may be gone is in the log, at a
position. So a collection that is cut off leaves nothing to mend: what it did not come to is taken
by the next one.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from holdfast.core.codec import json_bytes
from holdfast.errors import UsageError
from holdfast.ports import Clock, Entropy, Store
from holdfast.retention import Ended
from holdfast.runtime.births import collection_run

__all__ = ["Collection", "collect"]

_PAGE = 200


@dataclass(slots=True)
class Collection:
    """What a collection came to, or would."""

    before: int
    """µs since the epoch of Unix: runs that ended before lose their payloads."""
    event: str = ""
    """The event that tells of it, as RUN@SEQ; empty when nothing was done."""
    runs: int = 0
    payloads: int = 0
    bytes: int = 0
    """In rows; what large payloads had in chunks comes with ``chunks``."""
    chunks: int = 0
    chunk_bytes: int = 0


async def collect(
    store: Store, *, keep_us: int, by: str, apply: bool, clock: Clock, entropy: Entropy
) -> Collection:
    """Let go of the payloads of runs that ended longer ago than ``keep_us`` (µs).

    Args:
        store: Where they are.
        keep_us: How long they are kept after a run's end.
        by: Who says so.
        apply: Do it, rather than count what would go.
        clock: Tells the time.
        entropy: Where salts come from.

    Raises:
        UsageError: ``keep_us`` is negative.
    """
    if keep_us < 0:
        raise UsageError(f"payloads cannot be kept for {keep_us} µs")
    now = clock.now()
    collection = Collection(now - keep_us)
    pages: list[list[str]] = []
    async for page in _pages(store, collection.before):
        pages.append([ended.run for ended in page])
        collection.runs += len(page)
        collection.payloads += sum(ended.payloads for ended in page)
        collection.bytes += sum(ended.bytes for ended in page)
    if pages and apply:  # those alone that had ended by now: the event stands behind their ends
        said = json_bytes({"by": by})
        told = collection_run(collection.before, said, now=now, entropy=entropy)
        await store.create(told)
        collection.event = f"{told.row.run}@2"
        for runs in pages:
            await store.collect(runs, told.row.run)
    if apply:
        swept = await store.sweep()
        collection.chunks, collection.chunk_bytes = swept.chunks, swept.bytes
    return collection


async def _pages(store: Store, before: int) -> AsyncIterator[list[Ended]]:
    """Yield the runs that ended before a time and have payloads, page by page."""
    after = ""
    while page := await store.ended(before=before, after=after, limit=_PAGE):
        after = page[-1].run
        if having := [ended for ended in page if ended.payloads]:
            yield having
