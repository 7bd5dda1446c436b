"""The writing end of one run's stream: seals events, folds them, and appends them in order.

Output commit lives here. ``record`` only buffers; ``flush`` sends what is buffered;
``when_durable`` calls back once everything recorded so far is on disk. ``read`` outcomes are
flushed behind the machine's back whenever no append is under way, so the log follows closely and
nobody waits for it.

Invariants: appends of a run reach the store in the order recorded; after the first failure nothing
more is sent, and whoever drives the run is told once, by ``on_lost``.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.core import events as ev
from holdfast.core.events import Cause, Event
from holdfast.core.limits import SALT_BYTES
from holdfast.core.state import RunState, apply
from holdfast.ports import Answer, Append, Clock, Entropy, Message, NewRun, Store

__all__ = ["Appender"]


class Appender:
    """Writes one run's stream under one lease.

    Args:
        store: Where to.
        state: The run as it stands; brought forward by each ``record``.
        epoch: The lease's.
        on_lost: Called once with the error when the store refuses or fails an append.
        clean: Takes secrets out of each payload.
    """

    def __init__(
        self,
        store: Store,
        state: RunState,
        epoch: int,
        *,
        clock: Clock,
        entropy: Entropy,
        on_lost: Callable[[BaseException], None],
        clean: Callable[[bytes], bytes],
    ) -> None:
        self.state = state
        self.epoch = epoch
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._on_lost = on_lost
        self._clean = clean
        self._buffer: list[Event] = []
        self._deliver: list[Message] = []
        self._create: list[NewRun] = []
        self._consume: list[int] = []
        self._sent_seq = state.seq
        self._sent = 0
        self._done = 0
        self._waiters: deque[tuple[int, Callable[[], None]]] = deque()
        self._lost = False

    def seal(
        self, body: ev.Body, payload: bytes | None, cause: Sequence[Cause], sub: str = ""
    ) -> Event:
        """Make the run's next event without recording it; it has no secrets in its payload.

        ``sub`` is on whose behalf the payload is, if not the run's own subject.
        """
        state = self.state
        if payload is not None:
            payload = self._clean(payload)
        return ev.seal(
            body,
            run=state.run,
            seq=state.seq + 1,
            prev=state.head,
            at=max(self._clock.now(), state.updated_at),
            epoch=self.epoch,
            agent=state.agent,
            cause=tuple(cause),
            payload=payload,
            salt=None if payload is None else self._entropy.bytes(SALT_BYTES),
            sub=sub or state.sub,
        )

    def record(
        self,
        body: ev.Body,
        payload: bytes | None = None,
        cause: Sequence[Cause] = (),
        sub: str = "",
    ) -> Event:
        """Make the run's next event, as ``seal`` does; it is durable after a later flush."""
        event = self.seal(body, payload, cause, sub)
        apply(self.state, event)
        self._buffer.append(event)
        return event

    def take(self, number: int) -> None:
        """Count an inbox message as taken in by what is recorded."""
        self._consume.append(number)

    def send(self, message: Message) -> None:
        """Deliver a message together with what is recorded."""
        self._deliver.append(message)

    def start(self, run: NewRun) -> None:
        """Create a run together with what is recorded."""
        self._create.append(run)

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Flush, and call back when all that is recorded now is on disk; at once if it is."""
        self.flush()
        if self._done == self._sent:
            callback()
        else:
            self._waiters.append((self._sent, callback))

    def flush_soon(self) -> None:
        """Send what is recorded unless an append is under way, which will take care of it."""
        if self._done == self._sent:
            self.flush()

    def flush(self) -> None:
        """Send what is recorded."""
        if (self._buffer or self._consume) and not self._lost:
            self._append(self._change())

    def release(self, seen: int, callback: Callable[[], None]) -> None:
        """Send what is recorded and give up the lease; call back when it is done."""
        if self._lost:
            return
        self._append(self._change(release=True, seen=seen))
        self._waiters.append((self._sent, callback))

    async def flushed(self) -> None:
        """Wait until all that is recorded is durable."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when_durable(lambda: None if durable.done() else durable.set_result(None))
        await durable

    def change_of(
        self, body: ev.Body, payload: bytes, cause: Sequence[Cause]
    ) -> tuple[Append, Event]:
        """Return the change that appends one event, and the event, for ``Store.transact``.

        It may be called in any thread. The state is not touched; ``adopt`` does that once the
        change is durable.
        """
        event = self.seal(body, payload, cause)
        after = copy.copy(self.state)
        after.open_steps = dict(after.open_steps)
        after.effects_done = list(after.effects_done)
        apply(after, event)
        change = Append(self.state.run, self.epoch, self.state.seq, [event], after.row())
        return change, event

    def adopt(self, event: Event) -> None:
        """Take note of an event that ``Store.transact`` has appended."""
        assert not self._buffer
        apply(self.state, event)
        self._sent_seq = event.seq

    def _change(self, *, release: bool = False, seen: int = 0) -> Append:
        change = Append(
            run=self.state.run,
            epoch=self.epoch,
            expected_seq=self._sent_seq,
            events=self._buffer,
            row=self.state.row(),
            deliver=self._deliver,
            create=self._create,
            consume=self._consume,
            release=release,
            seen=seen,
        )
        self._sent_seq = self.state.seq
        self._buffer, self._deliver, self._create, self._consume = [], [], [], []
        return change

    def _append(self, change: Append) -> None:
        self._sent += 1
        answer: Any = self._store.append(change)
        if not hasattr(answer, "add_done_callback"):
            answer = asyncio.ensure_future(answer)
        answer.add_done_callback(self._appended)

    def _appended(self, answer: Answer) -> None:
        try:
            error = answer.exception()
        except asyncio.CancelledError as cancelled:
            error = cancelled
        if self._lost:
            return
        if error is not None:
            self._lost = True
            self._on_lost(error)
            return
        self._done += 1  # a store answers the appends of one run in their order
        while self._waiters and self._waiters[0][0] <= self._done:
            self._waiters.popleft()[1]()
        self.flush_soon()
