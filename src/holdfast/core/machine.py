"""A turn as a state machine: ``feed`` an event, get the commands that the agent issues in answer.

The machine holds the agent's coroutine and runs it on a loop of its own until it waits for
something that only an event can bring. It never reads, writes or sends. Live and on replay it does
the same: live, the events come as they are written; on replay, as they stand in the log. The order
of duties of whoever drives it:

1. ``feed(input)`` returns commands. Append one note per command, in order, right behind the input,
   and feed each note too, before the next input.
2. Nothing a command asks for may leave the process before its note is durable; a ``read`` may start
at once.
3. Append each outcome as an input and feed it.

Recovery is 1 to 3 with the recorded events first: what is then still in ``calls`` is the pending
work.

A note that is not the next command, or an input while commands are unrecorded, is a *divergence*:
the code asks for something else than the log holds. It is raised before anything new can happen.

Sync code is run in a greenlet, so that a sync step can wait for its outcome in the middle of a
callback.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

import greenlet

from holdfast.core import events as ev
from holdfast.core.calls import Call, Command, Decode, describe, divergence, same_payload
from holdfast.core.failures import failure_bytes
from holdfast.core.loop import TurnLoop, Waiter, quietly, running
from holdfast.core.redaction import Cleaner
from holdfast.core.specs import AgentSpec, StepSpec, spec_of
from holdfast.errors import HoldfastError, NotInRun, RunSuspended, UsageError

__all__ = ["CANCEL_TOPIC", "Call", "Command", "Machine", "current", "current_or_none", "describe"]

CANCEL_TOPIC = "$cancel"
_Outcome: TypeAlias = ev.StepFinished | ev.StepFailed | ev.MessageReceived | ev.ChildFinished

_CURRENT: contextvars.ContextVar["Machine | None"] = contextvars.ContextVar(
    "holdfast_turn", default=None
)


def current(what: str = "") -> "Machine":
    """Return the machine of the turn this code runs in.

    Raises:
        NotInRun: it runs in none and ``what`` asks for it.
    """
    machine = _CURRENT.get()
    if machine is None:
        raise NotInRun(f"{what} was called outside a run. Hint: call it in an agent.")
    return machine


def current_or_none() -> "Machine | None":
    """Return the machine of the turn this code runs in, if any."""
    return _CURRENT.get()


class Machine:
    """One turn of one run.

    Args:
        agent: The agent.
        run: The run's id.
        seed: The run's seed.
        input: The payload of ``run.created``: the input of a plain agent.
        state: The durable state before this turn, None before the first.
        marks: Names of the version guards that the recorded turn has passed.
        cleaner: Takes secrets out of names and messages; by default there are none.
    """

    def __init__(
        self,
        agent: AgentSpec,
        *,
        run: str,
        seed: int,
        input: bytes = b"null",  # noqa: A002 - the glossary's word
        state: bytes | None = None,
        marks: frozenset[str] = frozenset(),
        cleaner: Cleaner | None = None,
    ) -> None:
        self.agent = agent
        self._cleaner = cleaner or Cleaner()
        self.run = run
        self.seed = seed
        self.turn = 0
        self.loop = TurnLoop()
        self.calls: dict[str, Call] = {}
        """The calls without an outcome, by key, in the order they were asked for."""
        self.issued: deque[Command] = deque()
        """Commands whose note has not been fed yet."""
        self.ended = False
        self.cancelling = False
        self.tools: dict[str, Any] = {spec_of(tool).name: tool for tool in agent.tools}
        """Tools that the model may call, by name."""
        self._input = input
        self._state = state
        self._marks = marks
        self._guards: dict[str, bool] = {}
        self._replaying = False
        self._counts: dict[str, int] = {}
        self._draws = 0
        self._emitted = 0
        self._main: asyncio.Task[None] | None = None
        self._cleaning_up = False
        self._undo: list[Call] = []
        self._closed = False
        self._spinning = False
        self._blocked_on: Call | None = None
        self._blocked_task: asyncio.Task[Any] | None = None
        self._interrupted = False
        """Whether the agent is to be told, in the middle of a sync call, that it was cancelled."""
        self._greenlet = greenlet.greenlet(self._drive)
        self._context = contextvars.copy_context()
        self._context.run(_CURRENT.set, self)

    # Fed from outside

    def feed(self, event: ev.Event, *, replaying: bool = False) -> list[Command]:
        """Take in the turn's next event and return the commands that the agent issues in answer.

        Args:
            event: The next event of the turn, ``turn.started`` first.
            replaying: Whether recorded events follow this one.

        Raises:
            Diverged: the code asks for something else than the event says.
        """
        body = event.body
        if body.role == "mark":
            return []
        if body.role == "note":
            if not isinstance(body, ev.StepStarted) or body.attempt == 1:
                self._match(event)
            return []
        if isinstance(body, ev.StepFailed) and not body.final:
            return []
        if self.issued:
            self._diverge(event, self.issued[0])
        self._replaying = replaying
        self.loop.cause = event.seq
        self.loop.set_time(event.at / 1e6)
        self._take_in(event, body)
        self._run_until_blocked(event)
        return list(self.issued)

    def expect_marks(self, names: Iterable[str]) -> None:
        """Take note of version guards that the recorded turn has passed."""
        self._marks = self._marks.union(names)

    def close(self) -> None:
        """Let go of the coroutines: they are unwound and can ask for nothing more."""
        self._closed = True
        self._replaying = True
        with running(self.loop):
            if self._blocked_on is not None:
                self._blocked_on = None
                quietly(self._greenlet.throw, RunSuspended())
            # In the turn's context: what a coroutine calls while it unwinds must find itself in a
            # run, or it would be taken for code outside one and its body executed.
            self._context.run(self.loop.unwind, RunSuspended)
        self.loop.close()
        if self._greenlet:
            quietly(self._greenlet.throw)

    # Asked by the agent's code

    def step(
        self, spec: StepSpec, args: bytes, *, name: str = "", key: str = "", effect: str = ""
    ) -> Call:
        """Ask for a step and return the call, for ``outcome``, ``parts`` or ``wait``."""
        call = Call(key or self._next_key(name or spec.name), "step", effect or spec.effect)
        call.spec, call.args = spec, args
        self._issue(ev.StepStarted(call.key, call.effect), args, call, spec.args.decode)
        return call

    def child(self, agent: AgentSpec, payload: bytes) -> Call:
        """Ask for a run of another agent."""
        call = Call(self._next_key(agent.name), "child", "idempotent")
        turn = "" if self.turn == 1 else f".{self.turn}"
        call.topic = f"{self.run}/{call.key}{turn}"
        note = ev.ChildStarted(call.key, call.topic, agent.uri)
        self._issue(note, payload, call, agent.decode_input)
        return call

    def receive(self, topic: str) -> Call:
        """Wait for the next message of a topic."""
        self._check_open()
        call = Call(self._next_key("receive"), "message")
        call.topic = topic
        self.calls[call.key] = call
        return call

    def ask(self, question: bytes) -> Call:
        """Ask a person; the answer is a message to the topic ``key``."""
        call = Call(self._next_key("ask"), "message")
        call.topic = call.key if self.turn == 1 else f"{call.key}@{self.turn}"
        self._issue(ev.QuestionAsked(call.topic), question, call)
        return call

    def send(
        self,
        to: str,
        topic: str,
        payload: bytes,
        message_id: str = "",
        decode: Decode | None = None,
    ) -> None:
        """Send a message to another run."""
        key = self._next_key("send")
        message_id = message_id or f"{self.run}/{self.turn}/{key}"
        note = ev.MessageSent(key, to, topic, message_id)
        self._issue(note, payload, decode=decode)

    def emit(self, payload: bytes, decode: Decode | None = None) -> None:
        """Hand a value to whoever follows the run's stream."""
        self._emitted += 1
        self._issue(ev.StreamEmitted(self._emitted), payload, decode=decode)

    def version_guard(self, name: str) -> bool:
        """Tell whether the new code behind a guard runs.

        Not in a turn that had passed this place before.
        """
        if name not in self._guards:
            self._guards[name] = name in self._marks or not self._replaying
            if self._guards[name]:
                self._issue(ev.VersionMarked(name), None)
        return self._guards[name]

    def next_draw(self) -> int:
        """Return the number of the turn's next random draw, from 1."""
        self._draws += 1
        return self._draws

    async def outcome(self, call: Call) -> bytes:
        """Wait for a call's value.

        A wait for a ``read`` may be cancelled; then nobody wants it any more. The outcome of an
        effect is always waited for: to be told "timed out" of a deed that was done makes models do
        it twice. The cancellation is kept until the task asks for something more.

        Raises:
            StepFailed: the recorded failure.
        """
        cancelled: asyncio.CancelledError | None = None
        while not call.done:
            try:
                await self._waiter(call)
            except asyncio.CancelledError as error:
                if not call.done and call.may_be_abandoned:
                    self._abandon(call)
                    raise
                cancelled = error
        if cancelled is not None and self.cancelling and not self._cleaning_up:
            raise cancelled
        if cancelled is not None and (task := self.loop.current_task()):
            task.keep_cancel()
        return call.result()

    async def parts(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Wait for a streaming call's parts, one by one.

        The outcome's failure, if any, is raised behind them. Leaving early abandons the call.
        """
        try:
            while call.parts or not call.done:
                if call.parts:
                    yield call.parts.popleft()
                else:
                    await self._waiter(call)
        finally:
            if not call.done:
                self._abandon(call)
        call.result()

    def wait(self, call: Call) -> bytes:
        """Wait for a call's value in sync code; the whole turn waits.

        Raises:
            StepFailed: the recorded failure.
            CancelledError: the run was cancelled while it waited.
        """
        while not call.done:
            self._block_on(call)
        if self._interrupted:
            self._interrupted = False
            raise asyncio.CancelledError
        return call.result()

    def wait_parts(self, call: Call) -> Iterator[bytes]:
        """Wait for a streaming call's parts in sync code, as ``parts`` does in async code."""
        try:
            while call.parts or not call.done:
                if call.parts:
                    yield call.parts.popleft()
                else:
                    self._block_on(call)
        finally:
            if not call.done:
                self._abandon(call)
        call.result()

    def _block_on(self, call: Call) -> None:
        if greenlet.getcurrent() is not self._greenlet:
            raise UsageError(
                f"{call.key} was called in a greenlet of its own inside a turn. Hint: call it in"
                " the agent itself."
            )
        self._blocked_on, self._blocked_task = call, asyncio.current_task(self.loop)
        self._switch_out()
        self._blocked_on = self._blocked_task = None
        if self._interrupted and not call.done and call.may_be_abandoned:
            self._interrupted = False
            self._abandon(call)
            raise asyncio.CancelledError

    # Inside

    def _take_in(self, event: ev.Event, body: ev.Body) -> None:
        match body:
            case ev.TurnStarted():
                self.turn = body.turn
                message = event.payload if self.agent.has_state else self._input
                self._main = self._context.run(
                    self.loop.create_task, self._turn(message or b"null"), context=self._context
                )
            case ev.StepEmitted():
                call = self._call(event, body.key)
                call.parts.append(event.payload or b"null")
                call.wake()
            case ev.StepFinished() | ev.StepFailed() | ev.MessageReceived() | ev.ChildFinished():
                self._end_call(event, body)
            case ev.TimerFired():
                set_under = next((seq for seq in event.cause if isinstance(seq, int)), 0)
                if not self.loop.fire((set_under, body.timer)):
                    self._diverge(event, None)
            case ev.CancelRequested():
                self.cancelling = True
                if self._main is not None and not self._cleaning_up:
                    if self._blocked_task is self._main:
                        self._interrupted = True
                    else:
                        self._main.cancel()
            case _:
                raise AssertionError(f"not an input: {body}")

    def _end_call(self, event: ev.Event, body: _Outcome) -> None:
        call = self.calls.pop(self._call(event, body.key).key)
        failed = isinstance(body, ev.StepFailed) or (
            isinstance(body, ev.ChildFinished) and not body.ok
        )
        if not failed and call.spec is not None and call.spec.compensate is not None:
            self._undo.append(call)
        call.end(event.payload or b"null", failed=failed)

    def _call(self, event: ev.Event, key: str) -> Call:
        call = self.calls.get(key)
        if call is None:
            self._diverge(event, None)
        return call

    def _match(self, event: ev.Event) -> None:
        if not self.issued and self._blocked_on is not None and self._blocked_on.kind == "timer":
            self._blocked_on.end(b"null", failed=False)  # from before time.sleep was a timer
            self._run_until_blocked(event)
        if not self.issued:
            self._diverge(event, None)
        command = self.issued[0]
        if event.body != command.body or not same_payload(event, command.payload, command.decode):
            self._diverge(event, command)
        self.issued.popleft()

    def _diverge(self, event: ev.Event, command: Command | None) -> NoReturn:
        raise divergence(self.run, event, command, self._cleaner)

    def _issue(
        self,
        body: ev.Body,
        payload: bytes | None,
        call: Call | None = None,
        decode: Decode | None = None,
    ) -> None:
        self._check_open()
        if call is not None:
            self.calls[call.key] = call
        self.issued.append(Command(body, payload, self.loop.cause, call, decode))

    def _check_open(self) -> None:
        if self._closed:
            raise RunSuspended
        if not self.loop.in_its_thread():
            raise UsageError(
                "a step was called in a thread of its own inside a turn. Hint: call it in the"
                " agent itself."
            )

    def _next_key(self, name: str) -> str:
        if self.loop.cancel_kept:
            task = self.loop.current_task()
            if task is not None and task.take_cancel():
                raise asyncio.CancelledError
        name = self._cleaner.name(name)
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return f"{name}#{count}"

    def _abandon(self, call: Call) -> None:
        call.abandoned = True
        if self.calls.pop(call.key, None) is None or self._closed:
            return
        if call.kind == "step":
            self._issue(ev.StepAbandoned(call.key), None)
        elif call.kind == "child":
            child = call.topic
            note = ev.MessageSent(f"cancel:{call.key}", child, CANCEL_TOPIC, f"{child}/cancel")
            self._issue(note, b'{"by":"parent"}')

    def _waiter(self, call: Call) -> Waiter:
        waiter = call.waiter = self.loop.create_future()
        return waiter

    async def _turn(self, message: bytes) -> None:
        try:
            payload = await self.agent.play(message, self._state)
            body: ev.Body = (
                ev.TurnFinished(self.turn) if self.agent.has_state else ev.RunSucceeded()
            )
            decode: Decode | None = self.agent.decode_end
        except BaseException as error:
            if self._closed:
                raise
            cancelled = self.cancelling and isinstance(error, asyncio.CancelledError)
            payload, decode = failure_bytes(error), None
            body = ev.RunCancelled() if cancelled else self._failed()
        self._cleaning_up = True
        await self._reap()
        if isinstance(body, ev.RunCancelled | ev.RunFailed | ev.TurnFailed):
            await self._compensate()
        self._issue(body, payload, decode=decode)
        self.ended = True

    async def _reap(self) -> None:
        """Let nothing that the agent left behind outlive the turn; wait for its effects."""
        me = asyncio.current_task()
        while others := [task for task in self.loop.tasks() if task is not me]:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        await self.loop.shutdown_asyncgens()
        for call in [call for call in self.calls.values() if call.may_be_abandoned]:
            self._abandon(call)

    async def _compensate(self) -> None:
        """Undo what was done, the latest first.

        An undo that fails for good does not keep the others from theirs.
        """
        while self._undo:
            call = self._undo.pop()
            assert call.spec is not None
            spec, args = call.spec.undo(call.args, call.value)
            undo = self.step(spec, args, key=f"undo:{call.key}")
            with suppress(HoldfastError):
                await self.outcome(undo)

    def _run_until_blocked(self, event: ev.Event) -> None:
        with running(self.loop):
            self._greenlet.switch()
        if self.ended:
            return
        if not self.calls and (self._spinning or not self.loop.next_timer()):
            what = "spins" if self._spinning else "waits for something that no event can bring"
            error = UsageError(
                f"run {self.run!r}: the agent {what} (after event {event.seq})."
                " Hint: a thread, socket or future of another loop belongs in a step."
            )
            self.ended = True
            self._issue(self._failed(), failure_bytes(error))

    def _failed(self) -> ev.Body:
        return ev.TurnFailed(self.turn) if self.agent.has_state else ev.RunFailed()

    def _drive(self) -> None:
        while True:
            self._spinning = not self.loop.run_ready()
            self._switch_out()

    def _switch_out(self) -> None:
        assert self._greenlet.parent is not None
        self._greenlet.parent.switch()
