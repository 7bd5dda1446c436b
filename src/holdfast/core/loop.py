"""The deterministic asyncio loop that a turn runs on.

It has a ready queue, strictly first in, first out; a clock that stands still until somebody sets
it; timers that are numbered in the order they were set and fire only when told to; and no I/O
whatsoever. So what runs on it depends on nothing but the order in which futures are resolved and
timers fired, which is the order of the log.

It never runs by itself: ``run_ready`` executes callbacks until none is left, from a plain callback
of the host loop (inside a host task, asyncio would take the inner tasks for nested ones).
"""

import asyncio
import contextlib
import contextvars
import functools
import heapq
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NamedTuple, NoReturn, TypeAlias

from holdfast.errors import IoOutsideStep, UsageError

__all__ = ["CALLBACKS_MAX", "TIME_MAX_S", "TurnLoop", "Waiter", "quietly", "running"]

CALLBACKS_MAX = 200_000
"""How many callbacks run without waiting for anything before the turn counts as spinning."""

TIME_MAX_S = 2**53 // 10**6 - 1
"""When a timer is due at the latest, in the year 2255: its time in µs must fit a leaf."""


_Loop: Any = asyncio.AbstractEventLoop
# Any, since its stubs differ between versions of Python, and 29 of its methods are set below.


Waiter: TypeAlias = asyncio.Future[None]
"""What a coroutine waits on in between."""


class TimerKey(NamedTuple):
    """What a timer is known by: the ``n``-th, from 1, that was set under event ``cause``."""

    cause: int
    n: int


class _Handle(asyncio.Handle):
    """A callback that is ready; asyncio's own asks the loop whether it debugs, each time."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: "TurnLoop",
        context: contextvars.Context | None,
    ) -> None:
        self._callback: Any = callback
        self._args = args
        self._loop = loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    __slots__ = ("alarm", "key")
    key: TimerKey
    alarm: bool
    """Whether its callback runs when it is fired, and not in its turn."""


class _Task(asyncio.Task[Any]):
    """A task whose hash is its number: the sets of ``asyncio.wait`` iterate alike everywhere."""

    number = 0

    def __hash__(self) -> int:
        return self.number

    _kept_cancel = False

    def keep_cancel(self) -> None:
        """Keep a cancellation that came in the middle of what must be waited for."""
        self._kept_cancel = True
        loop: Any = self.get_loop()
        loop.cancel_kept = True

    def take_cancel(self) -> bool:
        """Tell, once, whether a cancellation was kept that still holds."""
        kept, self._kept_cancel = self._kept_cancel, False
        return kept and self.cancelling() > 0

    def drop(self) -> None:
        """Expect to be forgotten while pending."""
        self._log_destroy_pending = False


class _Future(asyncio.Future[Any]):
    """As ``_Task``, for futures."""

    __slots__ = ("number",)
    number: int

    def __hash__(self) -> int:
        return self.number


class TurnLoop(_Loop):  # type: ignore[misc]  # see _Loop
    """An asyncio loop without a world. All times are seconds since the epoch of Unix."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._time = 0.0
        self._timers: dict[TimerKey, _Timer] = {}
        self._due: list[tuple[float, TimerKey]] = []
        self._timer_key = TimerKey(0, 0)
        """The latest timer's."""
        self.cause = 0
        """The seq of the event being fed; timers are counted under the one they are set under."""
        self._closed = False
        self._numbered = 0
        self._tasks: list[_Task] = []
        self._tasks_prune = 64
        self._thread = threading.get_ident()
        self._asyncgens: list[AsyncGenerator[Any, Any]] = []
        self.hooks: Any = (self._asyncgens.append, _leave_alone)
        """Asyncgen hooks that keep generators until the turn ends: their collection order is not
        ours to know."""
        self.cancel_kept = False
        """Whether any task ever kept a cancellation; see ``_Task``."""
        self.unhandled: list[dict[str, Any]] = []
        """What callbacks raised and nobody caught."""

    # What the machine drives it with

    def set_time(self, seconds: float) -> None:
        """Put the clock forward; it never goes back."""
        self._time = max(self._time, seconds)

    def run_ready(self) -> bool:
        """Run callbacks, first in, first out, until none is ready.

        False when CALLBACKS_MAX were not enough.
        """
        ready = self._ready
        for _ in range(CALLBACKS_MAX):
            if not ready:
                return True
            handle: Any = ready.popleft()
            if not handle._cancelled:  # noqa: SLF001 - as asyncio's own loops do
                try:  # what Handle._run does, without its frame
                    handle._context.run(handle._callback, *handle._args)  # noqa: SLF001 - as above
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as asyncio's own loops do
                    self.unhandled.append({"exception": error, "handle": handle})
        return False

    def next_timer(self) -> tuple[float, TimerKey] | None:
        """Return (time, key) of the earliest timer."""
        while self._due and self._due[0][1] not in self._timers:
            heapq.heappop(self._due)
        return self._due[0] if self._due else None

    def fire(self, key: tuple[int, int]) -> bool:
        """Make a timer's callback ready; False when there is no such timer."""
        handle = self._timers.pop(TimerKey(*key), None)
        if handle is None:
            return False
        if handle.alarm:
            handle._run()  # noqa: SLF001 - what asyncio's own loops call
        else:
            self._ready.append(handle)
        return True

    def set_alarm(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Set a timer that does not wait for callbacks: sync code may be holding them up."""
        handle = self.call_later(delay, callback)
        assert isinstance(handle, _Timer)
        handle.alarm = True
        return handle

    def in_its_thread(self) -> bool:
        """Tell whether the caller runs in the thread that the turn runs in."""
        return threading.get_ident() == self._thread

    def tasks(self) -> list[_Task]:
        """Return the tasks that are not done, in the order they were created."""
        return [task for task in self._tasks if not task.done()]

    def unwind(self, reason: type[BaseException]) -> None:
        """Raise an exception in every coroutine that is left, and let go of it."""
        for task in self.tasks():
            task.drop()
            coroutine: Any = task.get_coro()
            quietly(coroutine.throw, reason())
            quietly(coroutine.close)

    def current_task(self) -> _Task | None:
        """Return the task that runs now."""
        task = asyncio.current_task(self)
        return task if isinstance(task, _Task) else None

    # What asyncio calls

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if not self.in_its_thread():
            raise IoOutsideStep(
                f"a thread called back into a turn ({callback!r}): its timing is not in the log."
                " Hint: use the thread in a function under @hf.step."
            )
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        when = min(TIME_MAX_S, when)
        handle = _Timer(when, callback, args, self, context)
        handle.alarm = False
        if when <= self._time:
            handle.key = TimerKey(0, 0)
            self._ready.append(handle)
            return handle
        n = self._timer_key.n + 1 if self._timer_key.cause == self.cause else 1
        handle.key = self._timer_key = TimerKey(self.cause, n)
        self._timers[handle.key] = handle
        heapq.heappush(self._due, (when, handle.key))
        return handle

    def _timer_handle_cancelled(self, handle: "_Timer") -> None:
        self._timers.pop(handle.key, None)

    def time(self) -> float:
        return self._time

    def create_future(self) -> asyncio.Future[Any]:
        future = _Future(loop=self)
        self._numbered += 1
        future.number = self._numbered
        return future

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
        task = _Task(coro, loop=self, **kwargs)
        self._numbered += 1
        task.number = self._numbered
        self._tasks.append(task)
        if len(self._tasks) > self._tasks_prune:
            self._tasks = self.tasks()
            self._tasks_prune = 2 * len(self._tasks) + 64
        return task

    def run_in_executor(
        self, _executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is handed to whoever awaits the future
            future.set_exception(error)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)

    def set_exception_handler(self, handler: Any) -> None:
        """Ignore the handler: what nobody catches is the machine's to report."""

    def get_exception_handler(self) -> None:
        return None

    def get_task_factory(self) -> None:
        return None

    async def shutdown_asyncgens(self) -> None:
        for generator in self._asyncgens:
            try:
                await generator.aclose()
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are closed too
                self.unhandled.append({"exception": error, "asyncgen": generator})

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's signature
        pass


class running:  # noqa: N801 - used as a function
    """Makes a turn's loop the running one of this thread, for the length of a with block.

    Inside another one of the same loop it does nothing.
    """

    __slots__ = ("_before", "_hooks", "_loop")

    def __init__(self, loop: TurnLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._before = asyncio._get_running_loop()  # noqa: SLF001 - asyncio's own, for loops
        if self._before is not self._loop:
            self._hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(*self._loop.hooks)
            asyncio._set_running_loop(self._loop)  # noqa: SLF001 - asyncio's own, for loops

    def __exit__(self, *_: object) -> None:
        if self._before is not self._loop:
            asyncio._set_running_loop(self._before)  # noqa: SLF001 - asyncio's own, for loops
            sys.set_asyncgen_hooks(*self._hooks)


def _leave_alone(_generator: AsyncGenerator[Any, Any]) -> None:
    """Do nothing for a generator that is collected."""


def quietly(function: Callable[..., Any], *args: Any) -> None:
    """Call a function that unwinds a coroutine: what comes out of it is of no use to anybody."""
    with contextlib.suppress(BaseException):
        function(*args)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise IoOutsideStep(
            f"code in a turn called loop.{name}(): a turn has no sockets, files, processes or"
            " signals."
            " Hint: do it in a function under @hf.step or @hf.tool; for HTTP use"
            " hf.async_http_client()."
        )

    return refuse


def _refuse_nesting(name: str) -> Callable[..., NoReturn]:
    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise UsageError(
            f"code in a turn called loop.{name}(): the turn's loop is driven by its log. Hint:"
            " await."
        )

    return refuse


_IO = (
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "create_datagram_endpoint",
    "start_tls",
    "connect_accepted_socket",
    "sendfile",
    "connect_read_pipe",
    "connect_write_pipe",
    "subprocess_shell",
    "subprocess_exec",
    "add_reader",
    "remove_reader",
    "add_writer",
    "remove_writer",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendto",
    "sock_connect",
    "sock_accept",
    "sock_sendfile",
    "add_signal_handler",
    "remove_signal_handler",
    "getaddrinfo",
    "getnameinfo",
    "set_default_executor",
)
for _name in _IO:
    setattr(TurnLoop, _name, _refuse(_name))
for _name in ("run_forever", "run_until_complete", "stop", "set_task_factory", "set_debug"):
    setattr(TurnLoop, _name, _refuse_nesting(_name))

_as_completed: Any = asyncio.as_completed


@functools.wraps(_as_completed)
def _as_completed_in_order(fs: Any, *, timeout: float | None = None) -> Any:
    """Give ``asyncio.as_completed`` tasks: it begins coroutines in the order of their addresses."""
    if isinstance(asyncio._get_running_loop(), TurnLoop) and not asyncio.isfuture(fs):  # noqa: SLF001 - the public one raises instead
        fs = [asyncio.ensure_future(f) for f in dict.fromkeys(fs)]
    return _as_completed(fs, timeout=timeout)


asyncio.as_completed = _as_completed_in_order
