"""What the parts of a runner (its inbox, its steps) ask of it, and what all runners share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.core import events as ev
from holdfast.core.events import Cause, Event
from holdfast.core.machine import Machine
from holdfast.core.replay import Plan
from holdfast.core.specs import AgentSpec
from holdfast.ports import Clock, Entropy, Middleware, Store
from holdfast.runtime.appender import Appender
from holdfast.runtime.context import Asking
from holdfast.runtime.secrets import Secrets

__all__ = ["Ending", "Host", "RunnerSettings"]


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What all runners of a worker share."""

    store: Store
    clock: Clock
    entropy: Entropy
    middleware: Sequence[Middleware] = ()
    secrets: Secrets = field(default_factory=Secrets)
    providers: Asking | None = None
    linger_s: float = 1.0
    """How long a run that waits for a message stays in memory."""
    nap_s: float = 5.0
    """A run that waits for a timer stays in memory if the timer is due within this time."""
    queues: Mapping[str, str] = field(default_factory=dict)
    """Agent's URI → its queue, where it has said one."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a runner ended: ``done``, ``parked``, ``drained``, ``fenced`` or ``unavailable``."""

    kind: str
    status: str
    error: BaseException | None = None


class Host(Protocol):
    """A runner, as its inbox and its steps see it."""

    run: str
    agent: AgentSpec
    settings: RunnerSettings
    machine: Machine | None
    log: Appender
    draining: bool

    @property
    def paused(self) -> bool:
        """Whether a transaction is writing this stream."""
        ...

    @property
    def closing(self) -> bool:
        """Whether the run is leaving memory."""
        ...

    def may_act(self) -> bool:
        """Tell whether an effect may begin: the lease holds. The run is given up if it does not."""
        ...

    def take_in(
        self, body: ev.Body, payload: bytes | None, cause: Sequence[Cause], sub: str = ""
    ) -> Event:
        """Record an input, feed it, and record the notes of what the agent asks for in answer."""
        ...

    def adopt(self, event: Event) -> None:
        """Take in an outcome that the store has appended together with the effect."""
        ...

    def begin_turn(
        self, message: bytes | None, cause: Sequence[Cause], message_id: str, sub: str = ""
    ) -> None:
        """Begin the next turn with a message, or the only one of a plain agent."""
        ...

    def may_begin(self) -> bool:
        """Tell whether the first turn is still to come, and its time has."""
        ...

    def resolve(self, said: dict[str, Any], cause: Sequence[Cause]) -> None:
        """Settle a doubt by what a person said."""
        ...

    def accept(self, by: str, cause: Sequence[Cause]) -> None:
        """Record that a person accepts a divergence."""
        ...

    def cancel_without_code(self, by: str, cause: Sequence[Cause]) -> None:
        """Cancel a run whose coroutine cannot be told."""
        ...

    def rewind(self) -> None:
        """Leave memory, to be taken up anew from the log at once."""
        ...

    def replay(self, turn_events: list[Event], cut: frozenset[tuple[str, int]]) -> Plan | None:
        """Replay the turn, as if ``cut`` attempts had emitted nothing; None if that cannot be."""
        ...

    def soon(self, callback: Callable[[], None]) -> None:
        """Run a callback that touches the machine, in turn."""
        ...

    def enter(self, callback: Callable[[], None]) -> None:
        """Do as ``soon`` does, at once: the caller is a plain callback of the host loop."""
        ...

    def settle(self) -> None:
        """Do what the state of things calls for."""
        ...

    def pause(self) -> None:
        """Hold all inputs back."""
        ...

    def resume(self, first: Callable[[], None]) -> None:
        """Take in ``first``, then what was held back."""
        ...

    def lost(self, error: BaseException) -> None:
        """Give up: the store refused or failed."""
        ...
