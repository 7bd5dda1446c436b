"""Advances one run under one lease: carries out what its machine asks for.

The order of duties is that of ``core/machine.py``: record an input, feed it, record the notes of
the commands that come out, wait until they are durable where an effect follows, run bodies, record
their outcomes, feed them. Recovery is the same walk with the recorded events first.

Everything that touches the machine happens in plain callbacks of the host loop, one at a time, so
there are no locks. A runner ends in one of five ways, see ``Ending``; whichever it is, the log has
all that is needed to carry on.
"""

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.core import events as ev
from holdfast.core.codec import json_bytes
from holdfast.core.events import Cause, Event
from holdfast.core.failures import failure_bytes
from holdfast.core.machine import Command, Machine
from holdfast.core.replay import Plan, feed_all, open_streams, plan, turn_is_over
from holdfast.core.specs import AgentSpec
from holdfast.core.state import ENDED, restore
from holdfast.errors import Conflict, Diverged, Fenced
from holdfast.ports import Claim, InboxMessage, Message
from holdfast.runtime.appender import Appender
from holdfast.runtime.births import Place, child_run
from holdfast.runtime.hosting import Ending, RunnerSettings
from holdfast.runtime.inbox import Inbox
from holdfast.runtime.paging import is_long, read_turn, replay_in_pages
from holdfast.runtime.steps import Steps

__all__ = ["Runner"]

_LOG = logging.getLogger("holdfast")


class Runner:
    """One run in memory. Call ``start`` once; ``ended`` resolves to an ``Ending``."""

    def __init__(
        self,
        claim: Claim,
        agent: AgentSpec,
        settings: RunnerSettings,
        *,
        lease_holds: Callable[[], bool],
    ) -> None:
        self.run = claim.row.run
        self.epoch = claim.epoch
        self.agent = agent
        self.settings = settings
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.machine: Machine | None = None
        self.log: Appender
        self.inbox = Inbox(self)
        self.steps = Steps(self)
        self.draining = False
        self.claim = claim
        self._lease_holds = lease_holds
        self._loop = asyncio.get_running_loop()
        self._input = b"null"
        self._state: bytes | None = None
        self._deferred: list[Callable[[], None]] = []
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._lingered = False
        self._early: list[InboxMessage] = []
        """Messages that have arrived since the inbox was served."""
        self._begun = False
        """Whether the recorded turn is replayed: before, nothing may be taken in."""
        self._closing = False

    @property
    def closing(self) -> bool:
        """Whether the run is leaving memory."""
        return self._closing

    # Life

    async def start(self) -> None:
        """Read the run's stream and begin to advance it.

        Raises:
            StoreError: the stream cannot be read, or is not what the row says.
        """
        store, row = self.settings.store, self.claim.row
        created = (await store.read(self.run, until=1))[0]
        self._input = created.payload or b"null"
        if row.state_seq:
            finished = await store.read(self.run, after=row.state_seq - 1, until=row.state_seq)
            self._state = _part(finished[0].payload, "state")
        paged, turn_events = None, list[Event]()
        if is_long(row) and not created.sealed:
            new, stopped = self._make_machine, lambda: self._closing
            paged = await replay_in_pages(store, row, created.sub, new, stopped)
            if self._closing:
                return
        if paged is not None:
            state, self.machine = paged
        else:
            turn_events = await read_turn(store, row, created)
            state = restore(row, turn_events, created.sub)
        unread = await store.unread(self.run)
        self.log = Appender(
            store,
            state,
            self.claim.epoch,
            clock=self.settings.clock,
            entropy=self.settings.entropy,
            on_lost=self.lost,
            clean=self.settings.secrets.clean,
        )
        self.inbox.add(unread)
        self._loop.call_soon(self.enter, lambda: self._begin(turn_events))

    def arrived(self, message: InboxMessage) -> None:
        """Take note of a message for this run."""
        self._early.append(message)
        if self._begun and not self._closing:
            self._loop.call_soon(self.enter, self.settle)

    def drain(self) -> None:
        """Start nothing new; give the run back as soon as no effect is under way."""
        self.draining = True
        if self._begun and not self._closing:
            self._loop.call_soon(self.enter, self.settle)

    def may_act(self) -> bool:
        """Tell whether the lease holds, by this process's own clocks; if not, stop at once.

        Whoever was paused beyond its lease finds out here, before it acts.
        """
        if not self._closing and not self._lease_holds():
            self.fence()
        return not self._closing

    def fence(self) -> None:
        """Stop at once: the lease is lost."""
        self.lost(Fenced(f"run {self.run!r}: the lease of epoch {self.claim.epoch} is lost"))

    def _begin(self, turn_events: list[Event]) -> None:
        self._begun = True
        state = self.log.state
        if not state.turn_seq:
            if self.may_begin() and not self.agent.has_state:
                self.begin_turn(None, (1,), "")
            self.settle()
            return
        if state.status in ENDED or turn_is_over(turn_events):
            self.settle()
            return
        recorded: Plan | None = None
        if self.machine is None:  # else it has been fed all there is
            cut = open_streams(turn_events, state)
            try:
                recorded = self.replay(turn_events, cut)
                if recorded is None:
                    self.steps.cut_for_good = cut
                    recorded = self.replay(turn_events, frozenset())
            except Diverged as error:
                self._diverged(error)
                return
        self._note_all()
        self.steps.recover(recorded or Plan())
        self.settle()

    def may_begin(self) -> bool:
        """Tell whether the first turn is still to come, and its time has come."""
        state = self.log.state
        return not state.turn_seq and state.wake_at <= self.settings.clock.now()

    def replay(self, turn_events: list[Event], cut: frozenset[tuple[str, int]]) -> Plan | None:
        """Replay the turn, as if ``cut`` streaming attempts had emitted nothing.

        Returns None when the agent has acted on one of their parts: then they must stand, and
        the turn is to be replayed without ``cut``.

        Raises:
            Diverged: the code asks for something else, and not because of ``cut``.
        """
        recorded = plan(turn_events, cut=cut)
        if self.machine is not None:
            self.machine.close()
        self.machine = self._make_machine(recorded.marks)
        try:
            feed_all(self.machine, recorded.feed)
        except Diverged:
            if not cut:
                raise
            return None
        return recorded

    def _make_machine(self, marks: frozenset[str] = frozenset()) -> Machine:
        return Machine(
            self.agent,
            run=self.run,
            seed=self.claim.row.seed,
            input=self._input,
            state=self._state,
            marks=marks,
            cleaner=self.settings.secrets.cleaner,
        )

    # Inputs and notes

    def begin_turn(
        self, message: bytes | None, cause: Sequence[Cause], message_id: str, sub: str = ""
    ) -> None:
        """Begin the next turn with a message, or the only one of a plain agent."""
        if self.machine is not None:
            self.machine.close()
        self.steps.begin_turn()
        self.machine = self._make_machine()
        turn = self.log.state.turn + 1
        self.take_in(ev.TurnStarted(turn, message_id), message, cause, sub)

    def take_in(
        self, body: ev.Body, payload: bytes | None, cause: Sequence[Cause], sub: str = ""
    ) -> Event:
        """Record an input, feed it and record the notes of what the agent asks for in answer."""
        assert self.machine is not None
        event = self.log.record(body, payload, cause, sub)
        self.machine.feed(event)
        self._note_all()
        return event

    def adopt(self, event: Event) -> None:
        """Take in an outcome that the store has appended together with the effect."""
        assert self.machine is not None
        self.log.adopt(event)
        self.machine.feed(event)
        self._note_all()

    def _note_all(self) -> None:
        assert self.machine is not None
        while self.machine.issued:
            command = self.machine.issued[0]
            event = self.log.record(command.body, command.payload, (command.cause,))
            self.machine.feed(event)
            self._carry_out(command, event)

    def _carry_out(self, command: Command, event: Event) -> None:
        body, payload = command.body, event.payload or b"null"  # the recorded one, secrets gone
        match body:
            case ev.StepStarted():
                assert command.call is not None
                self.steps.wanted(command.call)
            case ev.StepAbandoned():
                self.steps.cancel(body.key)
            case ev.MessageSent():
                self.log.send(self._message(body.to, body.id, body.topic, payload, event))
            case ev.ChildStarted():
                queue = self.settings.queues.get(body.agent_called, "")
                place = Place(queue, self.log.state.priority, self.log.state.key)
                entropy = self.settings.entropy
                self.log.start(child_run(body, payload, event, entropy=entropy, place=place))
            case ev.TurnFinished():
                self._state = _part(payload, "state")
            case ev.RunSucceeded() | ev.RunFailed() | ev.RunCancelled():
                self._tell_parent(isinstance(body, ev.RunSucceeded), payload, event)
            case _:
                pass

    def _tell_parent(self, ok: bool, payload: bytes, event: Event) -> None:  # noqa: FBT001 - internal
        parent = self.log.state.parent
        if parent:
            topic = "$child" if ok else "$child-failed"
            self.log.send(self._message(parent, f"{self.run}/done", topic, payload, event))

    def _message(
        self, to: str, message_id: str, topic: str, payload: bytes, event: Event
    ) -> Message:
        return Message(
            to=to,
            id=message_id,
            topic=topic,
            payload=payload,
            at=event.at,
            sender=self.run,
            cause=((self.run, event.seq),),
            sub=event.sub,
        )

    # Where to go from here

    def soon(self, callback: Callable[[], None]) -> None:
        """Run a callback that touches the machine, unless the runner has ended.

        Later, while it is paused.
        """
        self._loop.call_soon(self.enter, callback)

    def enter(self, callback: Callable[[], None]) -> None:
        """Do as ``soon`` does, at once: the caller is a plain callback of the host loop."""
        if self._closing:
            return
        if self._paused:
            self._deferred.append(callback)
            return
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - a runner that fails gives its run back
            said = self.settings.secrets.text(traceback.format_exc())
            _LOG.error("run %r: the runner failed: %s", self.run, said)
            self.lost(error)

    @property
    def paused(self) -> bool:
        """Whether a transaction is writing this stream."""
        return self._paused

    def pause(self) -> None:
        """Hold all inputs back: a transaction is writing this stream."""
        self._paused = True

    def resume(self, first: Callable[[], None]) -> None:
        """Take in what the transaction came to, then what was held back."""
        self._paused = False
        deferred, self._deferred = self._deferred, []
        for callback in (first, *deferred):
            self.soon(callback)

    def settle(self) -> None:
        """Do what the state of things calls for.

        Serve the inbox, start steps, set a timer, park or end.
        """
        if self._closing or self._paused:
            return
        if self._early:
            self.inbox.add(self._early)
            self._early = []
        self.inbox.serve()
        if self._closing:
            return
        state = self.log.state
        if state.status in ENDED:
            self._leave("done")
            return
        if self.machine is not None and self.machine.ended:
            self.machine.close()
            self.machine = None
        if self.draining and not self.steps.effects_under_way:
            self._leave("drained")
            return
        self.steps.start()
        self.log.flush_soon()
        self._wait()

    def _wait(self) -> None:
        """Set a timer for what is due soon; park if nothing is, and nothing runs."""
        wake_at, busy = self._next_wake(), self.steps.busy
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if busy and not wake_at:
            return
        now = self.settings.clock.now()
        if wake_at and (busy or wake_at <= now + self.settings.nap_s * 1e6):
            delay = max(0.0, (wake_at - now) / 1e6)
            self._timer = self._loop.call_later(delay, self.enter, self._wake)
        elif busy:
            pass
        elif self._lingered or self.steps.doubts or not self.settings.linger_s:
            self._park(wake_at)
        elif self._linger is None:
            self._linger = self._loop.call_later(
                self.settings.linger_s, self.enter, self._linger_over
            )

    def _linger_over(self) -> None:
        self._lingered = True
        self.settle()
        self._lingered, self._linger = False, None

    def _next_wake(self) -> int:
        timer = self.machine.loop.next_timer() if self.machine is not None else None
        begin_at = 0 if self.log.state.turn_seq else self.log.state.wake_at
        if timer is None and not self.steps.retries:
            return begin_at
        due = [at for at in self.steps.retries.values() if at]
        if timer is not None:
            due.append(int(timer[0] * 1e6) + 1)
        return min(due, default=0)

    def _wake(self) -> None:
        self._timer = None
        now = self.settings.clock.now()
        if self.machine is not None and not self.machine.ended:
            timer = self.machine.loop.next_timer()
            if timer is not None and int(timer[0] * 1e6) <= now:
                cause, n = timer[1]
                self.take_in(ev.TimerFired(n), None, (cause,))
        elif self.may_begin() and not self.agent.has_state:
            self.begin_turn(None, (1,), "")
        self.steps.retry_due(now)
        self.settle()

    # Leaving memory

    def _park(self, wake_at: int) -> None:
        state = self.log.state
        if state.status == "pending":
            self.log.record(ev.RunParked("idle"), None, (state.seq,))
        elif state.status != "idle":
            status = "in_doubt" if self.steps.doubts else "waiting"
            parked = ev.RunParked(status, wake_at, self._waits_for())
            if (state.status, state.wake_at) != (status, wake_at):
                self.log.record(parked, None, (state.seq,))
        self._leave("parked")

    def _waits_for(self) -> str:
        calls = self.machine.calls.values() if self.machine is not None else ()
        names = [call.topic or call.key for call in calls if call.kind != "step"]
        return ", ".join([*sorted(self.steps.doubts), *names])[:300]

    def _diverged(self, error: Diverged) -> None:
        _LOG.warning("%s", error)
        state = self.log.state
        if state.diverged_seq != error.seq:
            detail = {"recorded": error.recorded, "requested": error.requested}
            self.log.record(ev.RunDiverged(error.seq), json_bytes(detail), (error.seq,))
            self.log.record(ev.RunParked("diverged"), None, (state.seq,))
        assert self.machine is not None
        self.machine.close()
        self.machine = None
        self.inbox.serve()
        if not self._closing:
            self._leave("done" if state.status in ENDED else "parked")

    def accept(self, by: str, cause: Sequence[Cause]) -> None:
        """Record that a person accepts the divergence.

        The run is taken up anew by whoever claims it next.
        """
        from_seq = self.log.state.diverged_seq
        self.log.record(ev.RunAccepted(from_seq, by), None, cause)
        self._leave("drained")

    def resolve(self, said: dict[str, Any], cause: Sequence[Cause]) -> None:
        """Settle a doubt by what a person said."""
        self.steps.resolve(said, cause)

    def rewind(self) -> None:
        """Leave memory when no effect is under way, to be taken up anew from the log at once."""
        self.drain()

    def cancel_without_code(self, by: str, cause: Sequence[Cause]) -> None:
        """Cancel a run whose coroutine cannot be told: it is idle, or diverged."""
        event = self.log.record(ev.CancelRequested(by), None, cause)
        done = self.log.record(
            ev.RunCancelled(),
            failure_bytes(asyncio.CancelledError(f"cancelled by {by}")),
            (event.seq,),
        )
        self._tell_parent(False, done.payload or b"null", done)  # noqa: FBT003 - internal

    def _leave(self, kind: str) -> None:
        if kind == "drained":
            self.steps.give_back()
        self._closing = True
        self._stop()
        status = self.log.state.status
        self.log.release(self.inbox.seen, lambda: self._end(Ending(kind, status)))

    def lost(self, error: BaseException) -> None:
        self._closing = True
        self._stop()
        kind = "fenced" if isinstance(error, Fenced | Conflict) else "unavailable"
        status = self.log.state.status if self._begun else self.claim.row.status
        self._end(Ending(kind, status, error))

    def _stop(self) -> None:
        self.steps.stop()
        for handle in (self._timer, self._linger):
            if handle is not None:
                handle.cancel()
        if self.machine is not None:
            self.machine.close()
            self.machine = None

    def _end(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)


def _part(payload: bytes | None, name: str) -> bytes | None:
    """Return one part of a ``turn.finished`` payload, encoded again as it was."""
    if payload is None:
        return None
    return json_bytes(json.loads(payload)[name])
