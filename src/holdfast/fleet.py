"""What a store says of those who work on it and of what is held back, beside ``holdfast.ports``."""

from dataclasses import dataclass
from typing import Protocol

from holdfast.core.state import RunRow
from holdfast.errors import UsageError

__all__ = [
    "Pause",
    "QueueInfo",
    "QueueLimits",
    "Rest",
    "Rests",
    "Standing",
    "WorkerInfo",
    "held_back",
]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker whose lease holds. Times are µs since the epoch of Unix."""

    worker: str
    since: int
    """When it became known."""
    expires_at: int
    """When its lease runs out, unless it is renewed."""
    runs: int
    """How many runs it holds."""
    about: str
    """What it says of itself, as JSON; empty when it has said nothing."""


@dataclass(frozen=True, slots=True)
class Pause:
    """What is not claimed until it is resumed."""

    kind: str
    """``run``, ``queue`` or ``agent``."""
    name: str
    """A run's id, a queue's name or an agent's URI."""
    by: str
    at: int


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What a queue lets through; 0 is no limit."""

    queue: str
    concurrency: int = 0
    """How many of its runs are held at once."""
    per_key: int = 0
    """How many of those of one key; runs without a key are not counted."""
    rate: int = 0
    """How many of its runs begin in ``period_us``."""
    period_us: int = 0


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue: its limits, and its runs that are ready and held."""

    limits: QueueLimits
    ready: int
    held: int


@dataclass(frozen=True, slots=True)
class Rest:
    """A provider that has asked to be left alone; ``left_us`` is 0 or less once it is over."""

    provider: str
    left_us: int


class Rests(Protocol):
    """The part of a store that keeps who has asked to be left alone, for all workers at once.

    It is a courtesy to providers, and nothing else rests on it. Times are µs; a store with a clock
    of its own takes that one instead of ``now``.
    """

    async def rest(self, provider: str, *, now: int, rest_us: int) -> None:
        """Leave a provider alone for so long from now; 0 says that it answers again."""
        ...

    async def rests(self, *, now: int) -> list[Rest]:
        """Return all rests by provider, those too that are over and were followed by no answer."""
        ...

    async def probe(self, provider: str, *, now: int, rest_us: int) -> bool:
        """Tell whether a rest is over and the caller is the one who may try.

        For everybody else the rest goes on for ``rest_us``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as a snapshot finds it; ``worker`` is who advances it at this moment, else empty."""

    row: RunRow
    epoch: int
    worker: str


def held_back(run: str, queue: str, agent: str) -> tuple[str, str]:
    """Return the kind and the name of what is named, as ``Pause`` has them.

    Raises:
        UsageError: not exactly one of the three is named.
    """
    named = [(kind, name) for kind, name in (("run", run), ("queue", queue)) if name]
    if agent:
        named.append(("agent", f"agent:{agent.removeprefix('agent:')}"))
    if len(named) != 1:
        raise UsageError("name a run, or a queue, or an agent: one of them")
    return named[0]
