"""Retention in the reference store: the part of ``memory.py`` that collects payloads."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.core.events import Event
from holdfast.core.state import ENDED
from holdfast.retention import Ended, Swept
from holdfast.stores.collecting import check_told, is_operators

__all__ = ["RetentionInMemory"]


class RetentionInMemory:
    """Removes payloads from a ``MemoryStore``; its dictionaries are described there."""

    _log: list[Event]
    _runs: dict[str, Any]

    async def ended(self, *, before: int, after: str = "", limit: int) -> list[Ended]:
        found = []
        for run in sorted(self._runs):
            row, events = self._runs[run].row, self._runs[run].events
            old = row.status in ENDED and row.updated_at < before
            if run > after and old and not is_operators(run):
                kept = [len(event.payload) for event in events if event.payload is not None]
                found.append(Ended(run, len(kept), sum(kept)))
        return found[:limit]

    async def collect(self, runs: Sequence[str], told: str) -> None:
        check_told(told, stands=told in self._runs)
        over = {run for run in runs if self._runs[run].row.status in ENDED}
        gone = {run for run in over if not is_operators(run)}
        self._log = [_without(event) if event.run in gone else event for event in self._log]
        for run in gone:
            self._runs[run].events = [_without(event) for event in self._runs[run].events]

    async def sweep(self) -> Swept:
        return Swept(0, 0)


def _without(event: Event) -> Event:
    return event if event.payload is None else replace(event, payload=None, salt=None)
