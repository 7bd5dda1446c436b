"""Payloads that have had their time, as stores know them; beside ``ports.py``.

What is collected are payloads (and their salts), never events: leaves stay, so the log proves what
it proved. Only runs that have ended lose theirs, and not their unread messages; a run that a person
or an import may yet carry on has not ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["COLLECTED_RUNS", "Ended", "Retention", "Swept"]


COLLECTED_RUNS = "$collected/"
"""How the ids of the runs begin that tell which payloads may be gone; a time in µs follows."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended, and what it still keeps."""

    run: str
    payloads: int
    bytes: int
    """Of payloads as their rows hold them; chunks, which many may share, are not counted."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Chunks of payloads that were removed, since no payload had them any more."""

    chunks: int
    bytes: int


class Retention(Protocol):
    """What a store does with payloads that have had their time."""

    async def ended(self, *, before: int, after: str = "", limit: int) -> list[Ended]:
        """Return runs that ended ``before`` a time, whose id is larger than ``after``, by id.

        An operator's runs are left out: they tell of erasures and collections.
        """
        ...

    async def collect(self, runs: Sequence[str], told: str) -> None:
        """Remove the payloads of these runs, as far as they have ended, in one transaction.

        Args:
            runs: Their ids.
            told: The run that tells of it, which stands in the log.

        Raises:
            UsageError: it does not, or not yet at a position; nothing was changed.
        """
        ...

    async def sweep(self) -> Swept:
        """Remove the chunks that no payload has; writers are held up for moments only."""
        ...
