"""Valid streams, written by hand: what tests of stores, followers and verifiers append.

A ``Script`` is one run's stream and its fold. Whatever it adds is sealed behind what it has, as a
runner would do it. Salts come from run and seq, so that equal scripts give equal bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from holdfast.core import events as ev
from holdfast.core.state import RunState, apply, fold
from holdfast.ports import Append, Message, NewRun

__all__ = ["Fact", "Script", "conversation"]

Fact: TypeAlias = ev.Body | tuple[ev.Body, bytes | None]
"""What an event says, alone or with its payload."""


class Script:
    """One run's stream as it is written; ``at`` and ``epoch`` are those of the next events."""

    def __init__(self, events: Iterable[ev.Event], *, at: int, epoch: int = 0) -> None:
        """Carry on a stream behind ``events``, which must have a first one."""
        self.events = list(events)
        self.state: RunState = fold(self.events)
        self.run = self.state.run
        self.at = at
        self.epoch = epoch

    @classmethod
    def begin(
        cls,
        run: str,
        *,
        agent: str = "agent:test",
        at: int = 1_000_000,
        seed: int = 0,
        parent: str = "",
        parent_key: str = "",
        payload: bytes | None = b"null",
        queue: str = ev.DEFAULT_QUEUE,
        priority: int = 0,
        key: str = "",
        start_at: int = 0,
    ) -> "Script":
        """Write the first event of a new run."""
        place = (queue, priority, key, start_at)
        body = ev.RunCreated(seed, 0, parent, parent_key, *place)
        first = ev.seal(
            body,
            run=run,
            seq=1,
            prev=ev.GENESIS,
            at=at,
            epoch=0,
            agent=agent,
            cause=(),
            payload=payload,
            salt=None if payload is None else _salt(run, 1),
        )
        return cls([first], at=at)

    def new(self) -> NewRun:
        """Return what a store's ``create`` takes."""
        return NewRun(self.state.row(), tuple(self.events))

    def add(
        self,
        body: ev.Body,
        payload: bytes | None = None,
        *,
        cause: tuple[ev.Cause, ...] | None = None,
    ) -> ev.Event:
        """Seal one more event, caused by the one before unless said otherwise."""
        seq = self.state.seq + 1
        event = ev.seal(
            body,
            run=self.run,
            seq=seq,
            prev=self.state.head,
            at=self.at,
            epoch=self.epoch,
            agent=self.state.agent,
            cause=(self.state.seq,) if cause is None else cause,
            payload=payload,
            salt=None if payload is None else _salt(self.run, seq),
        )
        apply(self.state, event)
        self.events.append(event)
        return event

    def change(
        self,
        *facts: Fact,
        deliver: Sequence[Message] = (),
        create: Sequence[NewRun] = (),
        consume: Sequence[int] = (),
        release: bool = False,
        seen: int = 0,
    ) -> Append:
        """Add events and return the change that appends them."""
        before = self.state.seq
        pairs = (fact if isinstance(fact, tuple) else (fact, None) for fact in facts)
        events = tuple(self.add(body, payload) for body, payload in pairs)
        return Append(
            self.run,
            self.epoch,
            before,
            events,
            self.state.row(),
            deliver=deliver,
            create=create,
            consume=consume,
            release=release,
            seen=seen,
        )


def conversation(turns: int, *, chars: int = 200, edited: int = -1) -> bytes:
    """Return the payload of a model call after so many turns: each one's list begins with the last.

    Message ``edited`` reads otherwise, and so makes a conversation that shares all but one.
    """
    messages = [{"role": "system", "content": "Be kind."}]
    for turn in range(turns):
        text = f"{'edited' if turn == edited else 'turn'} {turn}: ü "
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": (text * (chars // len(text) + 1))[:chars]})
    call = {"model": "test-1", "messages": messages, "temperature": 0}
    return json.dumps(call, ensure_ascii=False, separators=(",", ":")).encode()


def _salt(run: str, seq: int) -> bytes:
    return hashlib.sha256(f"{seq} {run}".encode()).digest()
