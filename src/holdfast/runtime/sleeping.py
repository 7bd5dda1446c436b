"""``time.sleep`` in a turn is a durable timer.

A sync agent has no ``await asyncio.sleep``, and sync clients pause before they ask again: really
sleeping there would hold up every run of the worker, its heartbeat too, and once more at each
replay. So, in the code of an agent, the whole turn waits for a timer, as it waits for a sync step.
Everywhere else, bodies of steps included, ``time.sleep`` is what it was.
"""

import functools
import time
from typing import Any

from holdfast.core.calls import Call
from holdfast.core.machine import current_or_none

__all__ = ["install"]

SHORTEST_S = 1e-6
"""What is shorter is no time at all: a loop's float could not tell it."""

_real_sleep: Any = time.sleep


@functools.wraps(_real_sleep)
def _sleep(seconds: Any, /) -> None:
    machine = current_or_none()
    if machine is None or not machine.loop.in_its_thread() or not seconds >= SHORTEST_S:
        _real_sleep(seconds)
        return
    call = Call("time.sleep", "timer")
    alarm = machine.loop.set_alarm(seconds, functools.partial(call.end, b"null", failed=False))
    try:
        machine.wait(call)
    finally:
        alarm.cancel()


def install() -> None:
    """Make it so; twice is once."""
    time.sleep = _sleep
