"""The steps of one run in memory: which attempts are made when, and what is recorded of each.

Per effect contract (see the table in docs/guarantees.md):

* an intent of an effect is durable before its body begins; a ``read`` begins at once;
* a ``read`` and a ``transactional`` step that fail are tried again if that can help, then fail;
* an ``idempotent`` step whose outcome is unknown is tried again under the same key; when its
  attempts are used up, it is in doubt;
* a ``once`` step whose outcome is unknown is in doubt: ``reconcile`` is asked, then a person.

Invariants: only failures use up attempts, never a lost worker; at most one attempt of a step is
under way; every attempt that may have touched the world has its ``step.started`` in the log first.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from holdfast.core import events as ev
from holdfast.core.events import Cause, Event
from holdfast.core.failures import failure_bytes
from holdfast.core.machine import Call
from holdfast.core.replay import Plan
from holdfast.core.retry import backoff_s
from holdfast.core.state import OpenStep
from holdfast.errors import CodecError, StoreError
from holdfast.ports import Append, Transaction
from holdfast.runtime.bodies import (
    as_error,
    ask_reconcile,
    call_step,
    call_transactional,
    retry_after_s,
    stream_step,
    verdict_of,
)
from holdfast.runtime.context import StepContext
from holdfast.runtime.hosting import Host
from holdfast.runtime.verdicts import NOT_DONE, UNKNOWN

__all__ = ["Steps"]

_LOG = logging.getLogger("holdfast")


class Steps:
    """Makes the attempts of one run's steps."""

    def __init__(self, runner: Host) -> None:
        self._runner = runner
        self._wanted: list[Call] = []
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._waiting_for_disk = 0
        self._unbegun: set[str] = set()
        """Keys of the effects whose body this process was asked for and has not begun."""
        self._streamed: set[str] = set()
        """Keys of the steps whose attempt in this process has emitted parts."""
        self._recorded = Plan()
        self._held_back = 0
        """How many callbacks wait for their turn."""
        self.cut_for_good: frozenset[tuple[str, int]] = frozenset()
        """Streaming attempts that a crash cut after the agent had acted on a part."""
        self.retries: dict[str, int] = {}
        """Step key → when its next attempt is due (µs)."""
        self.doubts: set[str] = set()
        """Keys of the steps in doubt that only a person can settle."""

    @property
    def busy(self) -> bool:
        """Whether anything is under way that will come back by itself."""
        return bool(self._tasks or self._waiting_for_disk or self._wanted or self._held_back)

    @property
    def effects_under_way(self) -> bool:
        """Whether a body runs whose outcome should not be lost."""
        return any(self._call(key).effect != "read" for key in self._tasks if self._known(key))

    def _known(self, key: str) -> bool:
        machine = self._runner.machine
        return machine is not None and key in machine.calls

    def _call(self, key: str) -> Call:
        assert self._runner.machine is not None
        return self._runner.machine.calls[key]

    def _open(self, key: str) -> OpenStep:
        return self._runner.log.state.open_steps[key]

    def begin_turn(self) -> None:
        """Forget the last turn, whose step keys come again."""
        self._recorded = Plan()
        self._streamed.clear()
        self.cut_for_good = frozenset()

    # What the machine asks for

    def wanted(self, call: Call) -> None:
        """Note that a step was asked for; ``start`` begins it."""
        self._wanted.append(call)
        if call.effect != "read":
            self._unbegun.add(call.key)

    def start(self) -> None:
        """Begin the steps asked for since the last time.

        Reads now, effects when their intent is durable.
        """
        if not self._wanted:
            return
        wanted, self._wanted = self._wanted, []
        effects = []
        for call in wanted:
            if call.abandoned or not self._known(call.key) or self._adopt(call):
                continue
            if call.effect == "read":
                self._begin(call.key)
            else:
                effects.append(call.key)
        if effects:
            self._when_durable(partial(self._begin_all, effects))

    def _when_durable(self, callback: Callable[[], Any]) -> None:
        self._waiting_for_disk += 1
        come = partial(self._come_from_disk, callback)
        self._runner.log.when_durable(partial(self._runner.enter, come))

    def _come_from_disk(self, callback: Callable[[], Any]) -> None:
        self._waiting_for_disk -= 1
        callback()

    def _hold_back(self, callback: Callable[[], None]) -> None:
        """Run a callback in its turn; the run does not park before that."""
        self._held_back += 1

        def come() -> None:
            self._held_back -= 1
            callback()

        self._runner.soon(come)

    def cancel(self, key: str) -> None:
        """Stop a body whose outcome nobody wants any more."""
        self.retries.pop(key, None)
        if (task := self._tasks.pop(key, None)) is not None:
            task.cancel()

    def give_back(self) -> None:
        """Record of each intent whose body was not begun that nothing happened: no doubt there."""
        for key in sorted(self._unbegun):
            step = self._runner.log.state.open_steps.get(key)
            if step is not None and step.effect == "once" and step.stage == "started":
                body = ev.StepResolved(key, step.attempt, "not_done", "drain")
                self._runner.log.record(body, None, (step.attempt_seq,))

    def stop(self) -> None:
        """Stop all bodies: the run leaves memory."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    # Attempts

    def _begin_all(self, keys: list[str]) -> None:
        for key in keys:
            self._begin(key)

    def _begin(self, key: str) -> None:
        if not self._known(key) or key in self._tasks:
            return
        runner = self._runner
        if runner.draining:
            return
        if runner.paused:
            self._hold_back(lambda: self._begin(key))
            return
        call = self._call(key)
        assert call.spec is not None
        if call.effect == "transactional":
            runner.pause()
            self._spawn(key, self._transact(call), self._transacted)
        elif call.spec.streams:
            self._spawn(key, self._stream(call), self._finished)
        else:
            self._spawn(key, self._call_body(call), self._finished)

    def _spawn(
        self,
        key: str,
        body: Coroutine[Any, Any, Any],
        done: Callable[[str, "asyncio.Task[Any]"], None],
    ) -> None:
        task = asyncio.get_running_loop().create_task(body)
        self._tasks[key] = task
        task.add_done_callback(partial(self._came_back, key, done))

    def _came_back(
        self, key: str, done: Callable[[str, "asyncio.Task[Any]"], None], task: "asyncio.Task[Any]"
    ) -> None:
        if self._tasks.get(key) is task:
            then = self._runner.resume if done == self._transacted else self._runner.enter
            then(partial(self._ended, key, task, done))

    def _ended(
        self, key: str, task: "asyncio.Task[Any]", done: Callable[[str, "asyncio.Task[Any]"], None]
    ) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
            if self._known(key):
                done(key, task)
            self._runner.settle()

    async def _call_body(self, call: Call) -> bytes:
        """Run a body; one that the process was paused before, beyond its lease, does not begin."""
        assert call.spec is not None
        runner, context = self._runner, self._context(call)
        if call.effect != "read" and not runner.may_act():
            raise asyncio.CancelledError
        self._unbegun.discard(call.key)
        agent, middleware = runner.log.state.agent, runner.settings.middleware
        return await call_step(call.spec, call.args, context, agent, middleware)

    def _context(self, call: Call) -> StepContext:
        state = self._runner.log.state
        settings, attempt = self._runner.settings, state.open_steps[call.key].attempt
        place = (state.run, call.key, attempt, state.seed, state.turn)
        return StepContext(*place, settings.secrets, providers=settings.providers)

    def _finished(self, key: str, task: "asyncio.Task[Any]") -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._failed(key, as_error(error))
            return
        step = self._open(key)
        body = ev.StepFinished(key, step.attempt)
        self._runner.take_in(body, task.result(), (step.attempt_seq,))

    def _failed(self, key: str, error: BaseException) -> None:
        """Record a failed attempt and do what its contract says."""
        runner, step, call = self._runner, self._open(key), self._call(key)
        assert call.spec is not None
        verdict = verdict_of(error, call.effect)
        payload = failure_bytes(error)
        more = step.failures + 1 < call.spec.retry.attempts
        again = verdict == "retry" or (verdict == "unknown" and call.effect == "idempotent")
        if again and more and key in self._streamed:
            self._spawn(key, self._read_turn(), lambda k, t: self._stream_failed(k, t, error))
        elif again and more:
            self._retry_later(key, error)
        elif verdict == "unknown":
            runner.log.record(ev.StepDoubted(key, step.attempt), payload, (step.attempt_seq,))
            self._doubt(key)
        else:
            body = ev.StepFailed(key, step.attempt, final=True)
            runner.take_in(body, payload, (step.attempt_seq,))

    def _retry_later(self, key: str, error: BaseException) -> None:
        runner, step = self._runner, self._open(key)
        now, wait_s = runner.settings.clock.now(), self._backoff_s(self._call(key), step)
        due = now + int(max(wait_s, retry_after_s(error, now / 1e6)) * 1e6)
        body = ev.StepFailed(key, step.attempt, final=False, retry_at=due)
        runner.log.record(body, failure_bytes(error), (step.attempt_seq,))
        self.retries[key] = due

    def _backoff_s(self, call: Call, step: OpenStep) -> float:
        assert call.spec is not None
        base_s, cap_s = call.spec.retry.base_s, call.spec.retry.cap_s
        seed = self._runner.log.state.seed
        return backoff_s(step.failures + 2, base_s=base_s, cap_s=cap_s, seed=seed, key=call.key)

    def retry_due(self, now: int) -> None:
        """Begin the attempts that are due."""
        for key in [key for key, due in self.retries.items() if due <= now]:
            del self.retries[key]
            if self._known(key):
                self._attempt_again(key, (self._open(key).failed_seq,))

    def _attempt_again(self, key: str, cause: Sequence[Cause]) -> None:
        """Record the intent of another attempt and begin it."""
        runner, step, call = self._runner, self._open(key), self._call(key)
        if runner.draining:
            return
        body = ev.StepStarted(key, call.effect, step.attempt + 1)
        runner.log.record(body, None, cause)
        if call.effect == "read":
            self._begin(key)
        else:
            self._unbegun.add(key)
            self._when_durable(partial(self._begin, key))

    # Streaming

    async def _stream(self, call: Call) -> bytes:
        assert call.spec is not None
        runner, attempt = self._runner, self._open(call.key).attempt

        def emit(n: int, part: bytes) -> None:
            body = ev.StepEmitted(call.key, attempt, n)
            runner.soon(lambda: self._emitted(body, part))

        return await stream_step(
            call.spec,
            call.args,
            self._context(call),
            runner.log.state.agent,
            runner.settings.middleware,
            emit=emit,
        )

    def _emitted(self, body: ev.StepEmitted, part: bytes) -> None:
        if self._known(body.key):
            self._streamed.add(body.key)
            self._runner.take_in(body, part, (self._open(body.key).attempt_seq,))
            self._runner.settle()

    async def _read_turn(self) -> list[Event]:
        log = self._runner.log
        await log.flushed()
        return await self._runner.settings.store.read(log.state.run, after=log.state.turn_seq - 1)

    def _stream_failed(
        self, key: str, task: "asyncio.Task[list[Event]]", error: BaseException
    ) -> None:
        """Make a cut attempt again as if it had never been, if the agent has not acted on it."""
        runner, step = self._runner, self._open(key)
        if unread := asyncio.CancelledError() if task.cancelled() else task.exception():
            runner.lost(unread)  # whoever takes the run up next makes the attempt again
            return
        turn_events = task.result()
        if turn_events[-1].seq != runner.log.state.seq:
            self._spawn(key, self._read_turn(), lambda k, t: self._stream_failed(k, t, error))
            return
        if runner.replay(turn_events, frozenset({(key, step.attempt)})) is not None:
            self._retry_later(key, error)
            runner.rewind()
            return
        runner.replay(turn_events, frozenset())
        body = ev.StepFailed(key, step.attempt, final=True)
        runner.take_in(body, failure_bytes(error), (step.attempt_seq,))

    # Transactions

    async def _transact(self, call: Call) -> Event:
        """Run a body inside the log's transaction; the run takes in nothing else meanwhile."""
        assert call.spec is not None
        runner, spec, context = self._runner, call.spec, self._context(call)
        log, step = runner.log, self._open(call.key)
        written: list[Event] = []

        def body(transaction: Transaction) -> Append:
            payload = call_transactional(spec, call.args, context, transaction)
            outcome = ev.StepFinished(call.key, context.attempt)
            change, event = log.change_of(outcome, payload, (step.attempt_seq,))
            written.append(event)
            return change

        await log.flushed()
        await runner.settings.store.transact(log.state.run, log.epoch, log.state.seq, body)
        return written[-1]

    def _transacted(self, key: str, task: "asyncio.Task[Any]") -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if isinstance(error, StoreError):
            self._runner.lost(error)
        elif error is not None:
            self._failed(key, as_error(error))
        else:
            self._runner.adopt(task.result())

    # Doubt

    def _doubt(self, key: str) -> None:
        """Settle a doubt by ``reconcile``, or leave it to a person."""
        call = self._call(key)
        assert call.spec is not None
        if call.spec.reconcile is None:
            self.doubts.add(key)
        else:
            self._spawn(
                key,
                ask_reconcile(
                    call.spec, call.args, self._context(call), self._runner.log.state.seed
                ),
                self._reconciled,
            )

    def _reconciled(self, key: str, task: "asyncio.Task[Any]") -> None:
        found = UNKNOWN if task.cancelled() or task.exception() is not None else task.result()
        if found is NOT_DONE:
            self._settle_doubt(key, "not_done", b"", "reconcile", ())
        elif found is UNKNOWN:
            self._settle_doubt(key, "unknown", b"", "reconcile", ())
        else:
            call = self._call(key)
            assert call.spec is not None
            try:
                value = call.spec.result.encode(found)
            except CodecError as error:
                self._warn(key, error)
                self._settle_doubt(key, "unknown", b"", "reconcile", ())
                return
            self._settle_doubt(key, "happened", value, "reconcile", ())

    def resolve(self, said: dict[str, Any], cause: Sequence[Cause]) -> None:
        """Settle a doubt by what a person said: ``{"step", "doubt", "verdict", "value", "by"}``.

        ``doubt`` is the seq of the doubt meant: a word that comes late says nothing of a later one.
        """
        key, verdict = said["step"], said["verdict"]
        step = self._runner.log.state.open_steps.get(key)
        if (
            step is None
            or (step.stage, step.doubt_seq) != ("doubted", said["doubt"])
            or not self._known(key)
        ):
            self._warn(key, "not in doubt; nothing to resolve")
            return
        value = b""
        if verdict == "happened":
            spec = self._call(key).spec
            assert spec is not None
            try:
                value = spec.result.encode(spec.result.decode(json.dumps(said["value"])))
            except CodecError as error:
                self._warn(key, error)
                verdict = "unknown"
        self.cancel(key)
        self._settle_doubt(key, verdict, value, said["by"], cause)

    def _warn(self, key: str, what: object) -> None:
        text = self._runner.settings.secrets.text(str(what))
        _LOG.warning("run %r step %s: %s", self._runner.run, key, text)

    def _settle_doubt(
        self, key: str, verdict: str, value: bytes, by: str, cause: Sequence[Cause]
    ) -> None:
        runner, step = self._runner, self._open(key)
        body = ev.StepResolved(key, step.attempt, verdict, by)
        event = runner.log.record(body, None, (*cause, step.doubt_seq))
        self.doubts.discard(key)
        if verdict == "happened":
            via = "reconcile" if by == "reconcile" else "person"
            runner.take_in(ev.StepFinished(key, step.attempt, via), value, (event.seq,))
        elif verdict == "not_done":
            self._attempt_again(key, (event.seq,))
        else:
            self.doubts.add(key)

    # Recovery

    def recover(self, recorded: Plan) -> None:
        """Take up what the log leaves open: the machine has been fed all there is."""
        self._recorded = recorded
        assert self._runner.machine is not None
        fresh = {call.key for call in self._wanted}
        for call in list(self._runner.machine.calls.values()):
            if call.kind == "step" and call.key not in fresh:
                self._recover(call)

    def _recover(self, call: Call) -> None:
        runner, step = self._runner, self._open(call.key)
        if step.stage == "started" and step.attempt == 1 and self._adopt(call):
            return
        if step.stage == "failed":
            self.retries[call.key] = step.retry_at
        elif step.stage == "doubted":
            self._doubt(call.key)
        elif step.stage == "started" and call.effect == "once":
            runner.log.record(ev.StepDoubted(call.key, step.attempt), None, (step.attempt_seq,))
            self._doubt(call.key)
        elif (call.key, step.attempt) in self.cut_for_good:
            error = ConnectionError("the stream was cut after the agent had acted on a part of it")
            body = ev.StepFailed(call.key, step.attempt, final=True)
            runner.take_in(body, failure_bytes(error), (step.attempt_seq,))
        else:
            self._attempt_again(call.key, (step.attempt_seq,))

    def _adopt(self, call: Call) -> bool:
        """Take over the recorded outcome of a step that an accepted divergence made void."""
        found = self._recorded.voided_step(call) if self._recorded.voided else None
        if found is None:
            return False
        started, finished = found
        if finished is not None:
            body = ev.StepFinished(call.key, 1, "adopted")
            self._hold_back(lambda: self._take_over(call.key, body, finished))
            return True
        if call.effect == "once":
            cause = (started.seq, self._open(call.key).attempt_seq)
            self._runner.log.record(ev.StepDoubted(call.key, 1), None, cause)
            self._doubt(call.key)
            return True
        return False

    def _take_over(self, key: str, body: ev.StepFinished, finished: Event) -> None:
        if self._known(key):
            self._runner.take_in(body, finished.payload, (finished.seq,))
            self._runner.settle()
