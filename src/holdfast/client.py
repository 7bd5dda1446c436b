"""Start, message, query and steer runs from outside.

A client only writes to the store: it creates runs and delivers messages, cancellations and
resolutions included, so it never gets in the way of whoever advances a run. Everything given twice
under one id happens once.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from holdfast.core import events as ev
from holdfast.core.codec import Codec, json_bytes
from holdfast.core.events import Event
from holdfast.core.limits import (
    MESSAGE_ID_CHARS_MAX,
    QUEUE_NAME_CHARS_MAX,
    RUN_ID_CHARS_MAX,
    SUBJECT_CHARS_MAX,
    TOPIC_CHARS_MAX,
    check_name,
)
from holdfast.core.machine import CANCEL_TOPIC
from holdfast.core.specs import AgentSpec, agent_spec
from holdfast.core.state import ENDED, RunRow, RunState, fold
from holdfast.errors import (
    RunConflict,
    RunParked,
    RunUnknown,
    UsageError,
)
from holdfast.fleet import held_back
from holdfast.ports import Clock, Entropy, Message, Pause, QueueLimits, Store
from holdfast.runtime.births import Place, erasure_run, new_run
from holdfast.runtime.emitted import Emitted, Retracted
from holdfast.runtime.endings import result_value
from holdfast.subjects import Erasure

__all__ = ["Client", "Retracted"]

POLL_S = 1.0
READ_EVENTS = 500
PREFIX_RUNS_MAX = 1000
SHOWN_MAX = 5
STUCK = frozenset({"in_doubt", "diverged"})


class Client:
    """Talks to the runs of one store.

    Args:
        store: The store.
        agents: The agents whose results are decoded by their annotations; the results of others are
        plain JSON.
        clean: Takes secrets out of every payload that goes to the store.
    """

    def __init__(
        self,
        store: Store,
        agents: dict[str, AgentSpec],
        *,
        clock: Clock,
        entropy: Entropy,
        clean: Callable[[bytes], bytes],
    ) -> None:
        self._store = store
        self._agents = agents
        self._clock = clock
        self._entropy = entropy
        self._clean = clean

    async def start(
        self,
        agent: Callable[..., Any] | str,
        *args: Any,
        id: str = "",  # noqa: A002 - the word users know
        subject: str = "",
        place: Place | None = None,
        **kwargs: Any,
    ) -> str:
        """Start a run, unless the id is taken by an earlier start of the agent; return its id.

        Args:
            agent: The agent, or its name.
            args: Its input (not its state).
            id: The run's id; drawn at random if empty.
            subject: The pseudonymous id of the person that the run is about, if any: its payloads
                are encrypted under a key that ``holdfast erase`` destroys.
            place: Where it stands in line, and from when on; by default in its agent's queue.
            kwargs: Its input by name.

        Raises:
            CodecError: the input does not fit the agent.
            RunConflict: the id belongs to a run of another agent or subject.
            SubjectErased: nothing may be recorded under this subject any more.
            VaultMissing: the key that wraps the subjects' keys is not at hand.
        """
        spec = self._spec(agent)
        payload = (
            b"null"
            if spec.has_state and not args and not kwargs
            else spec.encode_input(args, kwargs)
        )
        return await self.start_encoded(spec, payload, run=id, subject=subject, place=place)

    async def start_encoded(
        self,
        spec: AgentSpec,
        payload: bytes,
        *,
        run: str = "",
        subject: str = "",
        place: Place | None = None,
    ) -> str:
        """Start a run with an input in JSON; as ``start``."""
        place = place or Place()
        place = place if place.queue else replace(place, queue=spec.queue)
        if not spec.has_state:
            spec.decode_input(payload)
        payload = self._clean(payload)
        run = run or self._entropy.bytes(8).hex()
        check_name("run id", run, RUN_ID_CHARS_MAX)
        check_name("subject", subject, SUBJECT_CHARS_MAX, empty=True)
        new = new_run(
            run,
            spec.uri,
            payload,
            now=self._clock.now(),
            entropy=self._entropy,
            sub=subject,
            place=place,
        )
        first: list[Message] = []
        if spec.has_state and payload != b"null":
            now = self._clock.now()
            first = [Message(run, f"{run}/first", "", payload, now, sub=subject)]
        if not await self._store.create(new, first):
            row = await self.row(run)
            if row.agent != spec.uri:
                raise RunConflict(f"run {run!r} belongs to {row.agent}, not to {spec.uri}")
            if subject and await self._subject(run) != subject:
                raise RunConflict(f"run {run!r} is not on behalf of subject {subject!r}")
        return run

    async def message(
        self,
        run: str,
        message: Any,
        *,
        topic: str = "",
        id: str = "",  # noqa: A002 - the word users know
    ) -> str:
        """Send a message to a run and return the message's id; an id given twice is one message.

        Raises:
            RunUnknown: there is no such run.
            UsageError: the run has ended.
        """
        payload = Codec(type(message), "a message").encode(message)
        return await self.message_encoded(run, payload, topic=topic, message_id=id)

    async def message_encoded(
        self, run: str, payload: bytes, *, topic: str = "", message_id: str = ""
    ) -> str:
        """Send a message in JSON; as ``message``."""
        check_name("topic", topic, TOPIC_CHARS_MAX, empty=True)
        check_name("message id", message_id, MESSAGE_ID_CHARS_MAX, empty=True)
        return await self._tell(run, topic, payload, message_id)

    async def cancel(self, run: str, *, by: str = "client") -> None:
        """Ask a run to stop; it may clean up, and undoes what it has compensations for."""
        await self._tell(run, CANCEL_TOPIC, json_bytes({"by": by}), f"{run}/cancel")

    async def resolve(
        self,
        run: str,
        step: str,
        *,
        happened: Any = ...,
        did_not: bool = False,
        by: str,
        doubt: int = 0,
    ) -> None:
        """Settle a step in doubt by a person's word.

        Args:
            run: The run.
            step: The step key, such as ``refund#1``.
            happened: The outcome: what the step would have returned.
            did_not: Say that the effect did not happen; it is attempted again.
            by: Who says so; recorded.
            doubt: The seq of the doubt that was looked into (``OpenStep.doubt_seq``), by default
                the one there is: what is said of one attempt holds for no other.

        Raises:
            UsageError: the step is not in doubt, or neither or both are said.
        """
        if (happened is ...) != did_not:
            raise UsageError("say either happened=OUTCOME or did_not=True")
        state = await self.state(run)
        found = state.open_steps.get(step)
        if found is None or found.stage != "doubted" or doubt not in (0, found.doubt_seq):
            doubts = [key for key, s in state.open_steps.items() if s.stage == "doubted"]
            raise UsageError(
                f"run {run!r}: step {step!r} is not in doubt; in doubt are {doubts or 'none'}"
            )
        verdict = "not_done" if did_not else "happened"
        said = {"step": step, "doubt": found.doubt_seq, "verdict": verdict, "by": by}
        if not did_not:
            said["value"] = json.loads(Codec(type(happened), "the outcome").encode(happened))
        await self._tell(run, "$resolve", json_bytes(said), "")

    async def accept(self, run: str, *, by: str) -> None:
        """Accept a divergence: the code as it is now carries on.

        Recorded outcomes stay available to it.
        """
        row = await self.row(run)
        if row.status != "diverged":
            raise UsageError(
                f"run {run!r} is {row.status}, not diverged: there is nothing to accept"
            )
        await self._tell(run, "$accept", json_bytes({"by": by}), "")

    async def erase(self, subject: str, *, basis: str, by: str) -> Erasure:
        """Destroy a subject's key and payloads; the log tells so and stays verifiable.

        Args:
            subject: The pseudonymous id that the runs were started with.
            basis: On what grounds, such as ``GDPR Art. 17, request 4711``; recorded for ever, so
                nothing personal.
            by: Who approved; recorded too.

        Raises:
            UsageError: there is no such subject, or a run that needs its payloads is alive.
            SubjectErased: it was erased before.
        """
        check_name("subject", subject, SUBJECT_CHARS_MAX)
        if not basis.strip():
            raise UsageError("an erasure needs a basis: say on what grounds")
        said = self._clean(json_bytes({"basis": basis, "by": by}))
        told = erasure_run(subject, said, now=self._clock.now(), entropy=self._entropy)
        return await self._store.erase(subject, told)

    async def pause(self, *, run: str = "", queue: str = "", agent: str = "", by: str) -> bool:
        """Keep a run, a queue or an agent from being advanced; False when it is paused already.

        A run that a worker holds goes on to the end of the effects under way, and is given back.

        Raises:
            UsageError: not exactly one of the three is named.
            RunUnknown: there is no such run.
        """
        kind, name = held_back(run, queue, agent)
        if run:
            await self.row(run)
        return await self._store.pause(Pause(kind, name, by, self._clock.now()))

    async def resume(self, *, run: str = "", queue: str = "", agent: str = "") -> bool:
        """Take a pause back; False when there is none.

        Raises:
            UsageError: not exactly one of the three is named.
        """
        return await self._store.resume(*held_back(run, queue, agent))

    async def limit(
        self,
        queue: str,
        *,
        concurrency: int = 0,
        per_key: int = 0,
        rate: int = 0,
        period_s: float = 1.0,
    ) -> None:
        """Set the limits of a queue, for all workers, in place of those it had.

        Args:
            queue: Its name.
            concurrency: How many of its runs may be in memory at once, wherever; 0 for any number.
                A run that waits for a message or a time is not in memory.
            per_key: How many of those of one key.
            rate: How many of its runs may begin in ``period_s``; 0 for any number.
            period_s: In seconds. What was not used is saved up for one period at most.

        Raises:
            UsageError: a number is negative, or the period is not positive.
        """
        check_name("queue", queue, QUEUE_NAME_CHARS_MAX)
        period_us = round(period_s * 1e6)
        if min(concurrency, per_key, rate) < 0 or period_us < max(rate, 1):
            given = f"{concurrency=}, {per_key=}, {rate=}, {period_s=}"
            raise UsageError(f"queue {queue!r}: expected no negative limit, not {given}")
        limits = QueueLimits(queue, concurrency, per_key, rate, period_us if rate else 0)
        await self._store.limit(limits)

    async def row(self, run: str) -> RunRow:
        """Return a run's row.

        Raises:
            RunUnknown: there is no such run.
        """
        row = await self._store.row(run)
        if row is None:
            raise RunUnknown(f"there is no run {run!r} in {self._store.url}. Hint: holdfast ls")
        return row

    async def find(self, text: str) -> str:
        """Return the id of the run called so, or the only one whose id begins so.

        Children, whose ids begin with their parent's, do not make a beginning ambiguous.

        Raises:
            RunUnknown: there is none, or there are several.
        """
        if not text:
            raise UsageError("a run's id is empty; expected an id or the beginning of one")
        if await self._store.row(text) is not None:
            return text
        rows = await self._store.rows(prefix=text, limit=PREFIX_RUNS_MAX)
        found = [row.run for row in rows if not row.parent.startswith(text)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise RunUnknown(
                f"no run's id begins with {text!r} in {self._store.url}. Hint: holdfast ls --all"
            )
        shown = ", ".join(found[:SHOWN_MAX]) + (", …" if len(found) > SHOWN_MAX else "")
        raise RunUnknown(f"{len(found)} runs begin with {text!r}: {shown}")

    async def result(self, run: str, *, message: str = "", timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the word users know
        """Wait for a run's result, or for the reply to a message.

        Args:
            run: The run.
            message: A message's id; then the reply of the turn it began is waited for.
            timeout: Seconds, or None to wait for ever.

        Raises:
            RunFailed, RunWasCancelled: it ended so.
            RunParked: it is in doubt or diverged: it waits for a person.
            TimeoutError: it takes longer.
        """
        async with asyncio.timeout(timeout):
            while True:
                found, value = await self._look(run, message)
                if found:
                    return value
                await self._store.changed(POLL_S)

    async def _look(self, run: str, message: str) -> tuple[bool, Any]:
        row = await self.row(run)
        spec = self._agents.get(row.agent)
        if message:
            for event in reversed(await self.events(run)):
                if isinstance(event.body, ev.TurnStarted) and event.body.message == message:
                    ends = await self._store.read(run, after=event.seq)
                    end = next(
                        (e for e in ends if isinstance(e.body, ev.TurnFinished | ev.TurnFailed)),
                        None,
                    )
                    if end is not None:
                        return True, result_value(end, spec)
        if row.status in ENDED:
            last = (await self._store.read(run, after=row.seq - 1))[0]
            return True, result_value(last, spec)
        if row.status in STUCK:
            raise RunParked(
                f"run {run!r} is {row.status.replace('_', ' ')} and waits for a person."
                f" Hint: holdfast show {run}",
                status=row.status,
            )
        return False, None

    async def stream(self, run: str, *, after: int = 0, values: bool = True) -> AsyncIterator[Any]:
        """Follow a run: yield (seq, value) of what it emits, until it ends.

        When a stream that the run had passed on was cut and is made again, what was emitted of it
        no longer counts: (seq, ``Retracted``) names the seqs to forget.

        Args:
            run: The run.
            after: The seq to resume behind.
            values: Only emitted values; otherwise (seq, event) of every event.
        """
        row = await self.row(run)
        read = min(after, max(row.turn_seq - 1, 0))
        emitted = Emitted()
        while True:
            for event in await self._store.read(run, after=read, limit=READ_EVENTS):
                read = event.seq
                shown = emitted.look(event)
                if read <= after:
                    continue
                if not values:
                    yield read, event
                elif shown is not None:
                    yield read, shown.value
            row = await self.row(run)
            if row.seq > read:
                continue
            if row.status in ENDED:
                return
            await self._store.changed(POLL_S)

    async def state(self, run: str, *, at: int = 0) -> RunState:
        """Return the fold of a run's events, up to and including seq ``at`` unless 0.

        Raises:
            RunUnknown: there is no such run, or it has no such event.
        """
        row = await self.row(run)
        if at > row.seq:
            raise RunUnknown(f"run {run!r} has {row.seq} events; there is no event {at}")
        return fold(await self._store.read(run, until=at))

    async def events(self, run: str, *, after: int = 0) -> list[Event]:
        """Return a run's events."""
        await self.row(run)
        return await self._store.read(run, after=after)

    async def _tell(self, run: str, topic: str, payload: bytes, message_id: str) -> str:
        row = await self.row(run)
        message_id = message_id or f"m-{self._entropy.bytes(8).hex()}"
        if row.status in ENDED:
            if topic == CANCEL_TOPIC or await self._has_seen(run, message_id):
                return message_id
            raise UsageError(f"run {run!r} is over ({row.status}); it takes no more messages")
        sub, now = await self._subject(run), self._clock.now()
        message = Message(run, message_id, topic, self._clean(payload), now, sub=sub)
        await self._store.deliver([message])
        return message_id

    async def _subject(self, run: str) -> str:
        return (await self._store.read(run, until=1))[0].sub

    async def _has_seen(self, run: str, message_id: str) -> bool:
        """Tell whether a message of this id reached the run before it ended."""
        taken = {
            e.body.message if isinstance(e.body, ev.TurnStarted) else e.body.id
            for e in await self._store.read(run)
            if isinstance(e.body, ev.TurnStarted | ev.MessageReceived)
        }
        return message_id in taken or any(
            unread.message.id == message_id for unread in await self._store.unread(run)
        )

    def _spec(self, agent: Callable[..., Any] | str) -> AgentSpec:
        if not isinstance(agent, str):
            return agent_spec(agent)
        spec = self._agents.get(f"agent:{agent}")
        if spec is None:
            known = ", ".join(sorted(s.name for s in self._agents.values())) or "none"
            raise UsageError(f"agent {agent!r} is unknown here; known are {known}")
        return spec
