"""What passes between an agent's code and its machine: calls that wait, commands that come out."""

import asyncio
from collections import deque
from typing import NamedTuple

from holdfast.core import events as ev
from holdfast.core.failures import failure_error
from holdfast.core.specs import StepSpec

__all__ = ["Call", "Command", "describe", "excerpt"]

EXCERPT_CHARS = 300


class Call:
    """Something the agent waits for: a step's outcome, a message, a child's end."""

    __slots__ = (
        "abandoned",
        "args",
        "effect",
        "error",
        "key",
        "kind",
        "parts",
        "spec",
        "topic",
        "value",
        "waiter",
    )

    def __init__(self, key: str, kind: str, effect: str = "read") -> None:
        self.key = key
        self.kind = kind
        """``step``, ``message`` or ``child``."""
        self.effect = effect
        self.spec: StepSpec | None = None
        self.args = b""
        self.topic = ""
        self.value: bytes | None = None
        self.error: bytes | None = None
        self.parts: deque[bytes] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.abandoned = False

    @property
    def done(self) -> bool:
        return self.value is not None or self.error is not None

    @property
    def may_be_abandoned(self) -> bool:
        """Whether a cancelled wait ends at once: the outcome of an effect is always waited for."""
        return self.kind != "step" or self.effect == "read"

    def result(self) -> bytes:
        """Return the outcome's value.

        Raises:
            StepFailed: the outcome is a failure.
        """
        if self.error is not None:
            raise failure_error(self.error, self.key)
        assert self.value is not None
        return self.value

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Command(NamedTuple):
    """What the machine asks of the world.

    The note to append, and the call behind it, if it waits for one.
    """

    body: ev.Body
    payload: bytes | None
    cause: int
    call: Call | None = None


def describe(body: ev.Body) -> str:
    """Return a body as one readable phrase, such as ``step.started refund#1 (once)``."""
    match body:
        case ev.StepStarted():
            return f"{body.type} {body.key} ({body.effect})"
        case ev.MessageSent():
            return f"{body.type} {body.key} to {body.to!r}"
        case ev.ChildStarted():
            return f"{body.type} {body.key} ({body.agent_called})"
        case ev.VersionMarked():
            return f"{body.type} {body.name!r}"
        case ev.TimerFired():
            return f"{body.type} {body.timer}"
        case _:
            key = getattr(body, "key", "")
            return f"{body.type} {key}".rstrip()


def excerpt(payload: bytes | None) -> str:
    """Return the beginning of a payload, for an error message."""
    text = (payload or b"nothing").decode("utf-8", "replace")
    return (
        text if len(text) <= EXCERPT_CHARS else f"{text[:EXCERPT_CHARS]}… ({len(text)} characters)"
    )
