"""What is simulated, and the two ways in which a simulated process ends before its time."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.client import Client
from holdfast.testing.world import World

__all__ = ["Crash", "Program", "Stuck"]


class Crash(BaseException):
    """The process is dead."""


class Stuck(AssertionError):  # noqa: N818 - it states a fact
    """Nothing happens any more, and the script still waits."""


@dataclass
class Program:
    """What is simulated: agents, the world they act on, and what is asked of them from outside."""

    name: str
    agents: Sequence[Callable[..., Any]]
    world: World
    script: Callable[[Client], Awaitable[Any]]
    """Starts runs, sends messages, and returns what came of it.

    It may be started over at any moment, so it gives its own ids to everything.
    """
    expects: Any = ...
    """What the script returns, if that is known beforehand."""
    resolves: bool = True
    """Whether somebody resolves doubts by looking at the world."""
    resolves_after_s: float = 0.0
    """How long that somebody takes to look."""
    upgrade: Sequence[Callable[..., Any]] = ()
    """The agents as all processes but the first know them: their next version."""
    deterministic: bool = True
    """Whether the agents ask for the same each time, as they should."""
    linger_s: float = 0.5
    nap_s: float = 5.0
