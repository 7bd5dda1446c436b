"""What the body of a step may know of itself: its attempt, its idempotency key, its transaction."""

import contextvars
from dataclasses import dataclass

from holdfast.ports import Transaction

__all__ = ["STEP", "StepContext"]


@dataclass(slots=True)
class StepContext:
    """One attempt at a step, as its body sees it."""

    run: str
    key: str
    attempt: int
    idempotency_key: str
    transaction: Transaction | None = None


STEP: contextvars.ContextVar[StepContext | None] = contextvars.ContextVar("holdfast_step", default=None)
