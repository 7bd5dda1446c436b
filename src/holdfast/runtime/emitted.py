"""What a reader of a run's stream is shown: emitted values, and which of them no longer count."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.core import events as ev
from holdfast.core.events import Cause, Event

__all__ = ["Emitted", "Retracted", "Shown"]


class Retracted(NamedTuple):
    """Values that a reader of a stream has seen and that no longer count."""

    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """One value to show."""

    value: Any


class Emitted:
    """Reads a stream's emitted values, and notices which of them were taken back."""

    def __init__(self) -> None:
        self._parts: dict[Cause, tuple[str, int]] = {}
        self._values: dict[tuple[str, int], list[int]] = {}

    def look(self, event: Event) -> Shown | None:
        """Return what a reader is to be shown for the stream's next event, if anything."""
        match event.body:
            case ev.StepEmitted(key, attempt):
                self._parts[event.seq] = (key, attempt)
            case ev.StreamEmitted():
                for part in filter(None, map(self._parts.get, event.cause)):
                    self._values.setdefault(part, []).append(event.seq)
                return Shown(json.loads(event.payload or b"null"))
            case ev.StepStarted(key, _, attempt) if attempt > 1:
                return self._retract(key, attempt - 1)
            case ev.StepFailed(key, attempt, False):
                return self._retract(key, attempt)
            case _:
                pass
        return None

    def _retract(self, key: str, attempt: int) -> Shown | None:
        seqs = self._values.pop((key, attempt), None)
        return Shown(Retracted(tuple(seqs))) if seqs else None
