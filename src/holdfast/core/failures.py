"""Failures as data: what an exception becomes in the log, and what it is raised as again."""

import json

from holdfast.core.codec import json_bytes
from holdfast.errors import HoldfastError, NotDone, StepFailed

__all__ = ["failure_bytes", "failure_error", "is_retryable"]

_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    HoldfastError,
    ValueError,
)
"""What the program did wrong, and will do again."""


def is_retryable(error: BaseException) -> bool:
    """Tell whether another attempt could go through: a mistake in the program will be one again."""
    if isinstance(error, NotDone):
        return bool(error.facts.get("retryable", False))
    if isinstance(error, StepFailed):
        return error.retryable
    return not isinstance(error, _MISTAKES)


def failure_bytes(error: BaseException) -> bytes:
    """Return the payload that records an exception: type, message, retryable."""
    if isinstance(error, StepFailed):
        kind, message = error.error_type, error.error_message
    else:
        kind, message = type(error).__name__, _text(error)
    return json_bytes({"type": kind, "message": message, "retryable": is_retryable(error)})


def failure_error(payload: bytes, key: str) -> StepFailed:
    """Return the exception that a recorded failure is raised as."""
    data = json.loads(payload)
    return StepFailed(data["type"], data["message"], step=key, retryable=data["retryable"])


def _text(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, BaseExceptionGroup):
        text += ": " + "; ".join(f"{type(e).__name__}: {_text(e)}" for e in error.exceptions)
    return text.encode("utf-8", "replace").decode()
