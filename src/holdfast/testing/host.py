"""Virtual time: the loops of simulated processes, the world's clock and seeded chance.

A simulated process has an asyncio loop of its own, made of the same deterministic loop that a turn
runs on. Nothing waits: when no callback of any process is ready, the clock moves on to the earliest
timer of all of them. So a month costs a millisecond, and one seed gives one order of events.

The loop's own time starts elsewhere than the clock's, as in a real process: whoever mixes them up
finds out.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Coroutine, Generator
from contextlib import contextmanager
from math import ceil
from typing import Any, TypeVar

from holdfast.core.loop import TurnLoop

__all__ = ["EPOCH_US", "HostLoop", "SimulatedClock", "SimulatedEntropy", "Time", "at_once"]

T = TypeVar("T")

EPOCH_US = 1_790_000_000_000_000
"""The clock's time when a simulation begins, in µs since the epoch of Unix."""

LOOP_BEGINS_S = 1_000.0
"""The time of each loop at that moment, in seconds."""


class Time:
    """How much time has passed in a simulation, in µs, and by how much the clock is ahead of it."""

    def __init__(self) -> None:
        self.passed_us = 0
        self.jumped_us = 0
        """What somebody has put the clock forward by; loops do not notice."""

    @property
    def loop_s(self) -> float:
        """The time of every loop, in seconds."""
        return self.at(self.passed_us)

    def at(self, passed_us: int) -> float:
        """Return the time of every loop when so much time has passed."""
        return LOOP_BEGINS_S + passed_us / 1e6

    def go_to(self, loop_s: float) -> None:
        """Let time pass until a loop's time."""
        self.passed_us = max(self.passed_us, ceil((loop_s - LOOP_BEGINS_S) * 1e6))
        while self.loop_s < loop_s:  # what a float cannot tell
            self.passed_us += 1


class SimulatedClock:
    """What all processes of a simulation read the time from."""

    def __init__(self, time: Time) -> None:
        self._time = time

    def now(self) -> int:
        return EPOCH_US + self._time.passed_us + self._time.jumped_us


class SimulatedEntropy:
    """Chance that a seed decides."""

    def __init__(self, *seed: object) -> None:
        self._chance = random.Random(repr(seed))  # noqa: S311 - a schedule, not a secret

    def bytes(self, n: int) -> bytes:
        return self._chance.randbytes(n)


class HostLoop(TurnLoop):
    """The loop of one simulated process, driven from outside, one callback at a time."""

    @property
    def ready(self) -> bool:
        """Whether a callback could run now."""
        return bool(self._ready)

    def step(self) -> None:
        """Run the next callback."""
        handle = self._ready.popleft()
        if not handle.cancelled():
            handle._run()  # noqa: SLF001 - what asyncio's own loops call

    def fire_due(self, time: Time) -> None:
        """Bring the loop's time forward and make ready what has become due."""
        self.set_time(time.loop_s)
        while (timer := self.next_timer()) is not None and timer[0] <= self.time():
            self.fire(timer[1])

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Make this the running loop for the length of a with block."""
        before, hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()  # noqa: SLF001 - public by name, documented for loops
        asyncio._set_running_loop(self)  # noqa: SLF001 - as above
        sys.set_asyncgen_hooks(*self.hooks)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)  # noqa: SLF001 - as above
            sys.set_asyncgen_hooks(*hooks)

    def bury(self) -> None:
        """Unwind every coroutine that is left; what they raise is of no use to anybody."""
        with self.running():
            for task in self.tasks():
                task._log_destroy_pending = False  # noqa: SLF001 - dropped on purpose
                coroutine: Coroutine[Any, Any, Any] = task.get_coro()  # type: ignore[assignment]  # it is one
                try:
                    coroutine.close()
                except BaseException:  # noqa: BLE001, S112 - a dead process raises nothing
                    continue
        self.close()


def at_once(awaitable: Awaitable[T]) -> T:
    """Return what an awaitable comes to that waits for nothing."""
    iterator = awaitable.__await__()
    try:
        next(iterator)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("the store waits: open it so that every call is done at once")
