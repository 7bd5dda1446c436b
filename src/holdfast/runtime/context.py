"""What the body of a step may know of itself: its attempt, its idempotency key, its transaction."""

import contextvars
import hashlib
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.errors import NonDurableWarning
from holdfast.ports import Transaction

__all__ = ["STEP", "Asking", "Revealing", "StepContext", "effect_key", "warn_outside_run"]


class Revealing(Protocol):
    """What a step asks of the App's secrets; see ``runtime/secrets.py``."""

    def reveal(self, name: str) -> str:
        """Return a secret's value."""
        ...

    def decode(self, decode: Callable[[bytes], Any], data: bytes) -> Any:
        """Decode arguments, the secrets in them resolved."""
        ...

    @property
    def text(self) -> Callable[[str], str]:
        """What takes secrets out of a text."""
        ...


class Asking(Protocol):
    """What a step asks of the worker's providers; see ``runtime/providers.py``."""

    async def ask(self, provider: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a request when the provider wants it, and return its response."""
        ...


@dataclass(slots=True)
class StepContext:
    """One attempt at a step, as its body sees it."""

    run: str
    key: str
    attempt: int
    seed: int
    turn: int
    secrets: "Revealing | None" = None
    transaction: Transaction | None = None
    providers: "Asking | None" = None

    @property
    def idempotency_key(self) -> str:
        return effect_key(self.seed, self.run, self.turn, self.key)


def effect_key(seed: int, run: str, turn: int, key: str) -> str:
    """Return an idempotency key that no other effect of any run has: the run's seed is in it."""
    text = f"{seed}/{run}/{turn}/{key}"
    return "hf-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


_WARNED: set[str] = set()


def warn_outside_run(what: str) -> None:
    """Warn, once each, that something is executed without being recorded, unless a step does it."""
    if STEP.get() is None and what not in _WARNED:
        _WARNED.add(what)
        warnings.warn(
            f"{what} was called outside a run: it is executed, and nothing is recorded."
            " Hint: call it in an agent that hf.run or an App has started.",
            NonDurableWarning,
            stacklevel=4,
        )


STEP: contextvars.ContextVar[StepContext | None] = contextvars.ContextVar(
    "holdfast_step", default=None
)
