"""What `run` and `worker` share: a worker that drains on a signal, and its log on stderr.

The first SIGINT or SIGTERM drains: effects under way are finished, leases given back. A second one,
or the drain's time limit, cuts the effects; then the process leaves without waiting for threads.
While agents' code runs, its prints go to stderr: stdout is for results.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from holdfast.cli.shell import FAILED, INTERRUPTED, TERMINATED, Shell
from holdfast.cli.text import clean
from holdfast.errors import Diverged
from holdfast.runtime.worker import Worker

__all__ = ["EXIT_CODES", "Stop", "carry_on", "leave_at_once", "prints_to_stderr"]

EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
WATCH_S = 0.5
SHOWN_MAX = 5
HELD_AFTER_S = 1.5
"""A run that is not ours after this time is held by another worker."""


@dataclass
class Stop:
    """Why a worker stopped."""

    by: signal.Signals | None = None
    cut: bool = False
    """Whether effects were cut."""
    given_up: list[str] = field(default_factory=list)
    """The runs that were in memory then."""
    trouble: BaseException | None = None
    """Why the run could not be carried on: what the store said when it could not write."""


async def carry_on(
    shell: Shell,
    worker: Worker,
    *,
    until_idle: bool,
    drain_timeout_s: float | None = None,
    run: str = "",
) -> Stop:
    """Let a worker advance runs until it is idle or a signal comes.

    Args:
        shell: Where to say what happens.
        worker: The worker.
        until_idle: End when no run could go on.
        drain_timeout_s: How long effects may take after the signal; None for as long as they take.
        run: The only run, of which the store's trouble ends the worker.
    """
    loop = asyncio.get_running_loop()
    stop = Stop()
    task = loop.create_task(worker.run(until_idle=until_idle))

    def cut() -> None:
        if task.done():
            return
        stop.cut, stop.given_up = True, worker.runs()
        more = ", …" if stop.given_up[SHOWN_MAX:] else ""
        shown = ", ".join(stop.given_up[:SHOWN_MAX]) + more
        shell.note(
            f"given up as by a crash: {shown or 'nothing'}. What was under way there may yet have"
            " acted: the next worker finds out, or asks a person"
        )
        task.cancel()

    def on_signal(number: signal.Signals) -> None:
        if stop.by is not None:
            cut()
            return
        stop.by = number
        shell.note(f"{number.name}: effects under way are finished first; once more to cut them")
        worker.drain()
        if drain_timeout_s is not None:
            loop.call_later(drain_timeout_s, cut)

    with _signals(loop, on_signal), _log_to_stderr():
        begun, told = loop.time(), False
        while not task.done():
            await asyncio.wait({task}, timeout=WATCH_S)
            ending = worker.endings.get(run) if run else None
            if ending is not None and ending.kind == "unavailable":
                stop.trouble = ending.error
                worker.drain()
            waited = loop.time() - begun > HELD_AFTER_S
            if run and waited and not told and ending is None and not worker.statistics()["runs"]:
                told = True
                lease_s = worker.worker_settings.lease_s
                shell.note(
                    f"another worker holds run {run!r}, or died with it: waiting until it ends,"
                    f" parks or its lease runs out (within {lease_s:g} s)"
                )
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return stop


def leave_at_once(code: int) -> NoReturn:
    """End the process without waiting for threads that effects were cut in."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or FAILED)


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send to stderr what agents and their steps print."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _signals(
    loop: asyncio.AbstractEventLoop, handler: Callable[[signal.Signals], None]
) -> Iterator[None]:
    for number in EXIT_CODES:
        loop.add_signal_handler(number, handler, number)
    try:
        yield
    finally:
        for number in EXIT_CODES:
            loop.remove_signal_handler(number)


class _Lines(logging.Handler):
    """Writes the log of holdfast to stderr, a line for each message, told once."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and any(isinstance(a, Diverged) for a in record.args):
            return  # the command shows it at length
        print(clean(record.getMessage()), file=sys.stderr, flush=True)  # noqa: T201 - plain lines
        if record.exc_info:
            print(logging.Formatter().formatException(record.exc_info), file=sys.stderr)  # noqa: T201 - as above


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    log, handler = logging.getLogger("holdfast"), _Lines()
    before = log.propagate, log.level
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate, log.level = before
