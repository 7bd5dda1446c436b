"""Running the body of a step, and telling what its end means.

An exception from an effect is not a "no": it says that the outcome is unknown, unless it proves
that nothing happened. ``verdict_of`` is the one place where that is decided.
"""

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from holdfast.core.failures import is_retryable
from holdfast.core.retry import backoff_s
from holdfast.core.specs import StepSpec, spec_of
from holdfast.errors import CodecError, NotDone, StepFailed, UsageError
from holdfast.ports import Middleware, StepCall, Transaction
from holdfast.runtime.context import STEP, StepContext
from holdfast.runtime.verdicts import UNKNOWN

__all__ = [
    "Verdict",
    "as_error",
    "ask_reconcile",
    "call_step",
    "call_transactional",
    "retry_after_s",
    "said_retry_after_s",
    "stream_step",
    "verdict_of",
]

_LOG = logging.getLogger("holdfast")
RECONCILE_ATTEMPTS = 4

Verdict = Literal["failed", "retry", "unknown"]

_MAYBE_DONE_4XX = frozenset({408, 409, 425, 429})


def verdict_of(error: BaseException, effect: str) -> Verdict:
    """Tell what an exception from a step's body means.

    ``failed``: a known outcome, nothing happened and trying again is of no use. ``retry``: nothing
    happened, or nothing that matters, and another attempt may go through. ``unknown``: the effect
    may have happened.
    """
    if isinstance(error, CodecError):
        return "failed"
    if effect in ("read", "transactional"):
        return "retry" if is_retryable(error) and _status(error) not in _REFUSED else "failed"
    if isinstance(error, NotDone):
        return "retry" if is_retryable(error) else "failed"
    if isinstance(error, ConnectionRefusedError) or type(error).__name__ in _NOT_SENT:
        return "retry"
    if _status(error) in _REFUSED:
        return "failed"
    return "unknown"


_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
"""Exceptions of httpx's and its kin that are raised before a byte is sent."""

_REFUSED = frozenset(range(400, 500)) - _MAYBE_DONE_4XX


def _status(error: BaseException) -> int:
    """Return the HTTP status that an exception of an HTTP library's carries, or 0."""
    response = getattr(error, "response", None)
    candidates = (
        getattr(response, "status_code", None),
        getattr(error, "status_code", None),
        getattr(error, "status", None),
        getattr(error, "code", None),
    )
    return next((c for c in candidates if isinstance(c, int) and 100 <= c < 600), 0)  # noqa: PLR2004 - HTTP


def retry_after_s(error: BaseException, now_s: float) -> float:
    """Return the Retry-After that an exception's response carries, in seconds from now, or 0."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return said_retry_after_s(headers, now_s)


def said_retry_after_s(headers: Mapping[str, str], now_s: float) -> float:
    """Return the Retry-After among headers, in seconds from now, or 0."""
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        said = headers.get("retry-after") or "0"
        if said.strip().isdigit() or "." in said:
            return max(0.0, float(said))
        return max(0.0, parsedate_to_datetime(said).timestamp() - now_s)
    return 0.0


async def call_step(
    spec: StepSpec, args: bytes, context: StepContext, agent: str, middleware: Sequence[Middleware]
) -> bytes:
    """Run a step's body once and return its encoded result; raises what the body raises."""
    bound = _decode(spec, args, context)
    STEP.set(context)  # this coroutine is a task of its own, so the context is too
    if not middleware and spec.timeout_s is None and spec.is_async:
        call_args, kwargs = spec.args.spread(bound)
        return spec.result.encode(await spec.fn(*call_args, **kwargs))

    async def body() -> Any:
        async with asyncio.timeout(spec.timeout_s):
            return await _invoke(spec, bound)

    call = StepCall(context.run, agent, context.key, spec.name, spec.effect, context.attempt, bound)
    return spec.result.encode(await _compose(call, middleware, body))


def _decode(spec: StepSpec, args: bytes, context: StepContext) -> dict[str, Any]:
    """Return the arguments of a body that is about to begin, the secrets in them resolved."""
    if context.secrets is None:
        return spec.args.decode(args)
    bound: dict[str, Any] = context.secrets.decode(spec.args.decode, args)
    return bound


async def _compose(
    call: StepCall, middleware: Sequence[Middleware], body: Callable[[], Awaitable[Any]]
) -> Any:
    proceed = body
    for layer in reversed(middleware):
        proceed = _around(layer, call, proceed)
    return await proceed()


def _around(
    layer: Middleware, call: StepCall, proceed: Callable[[], Awaitable[Any]]
) -> Callable[[], Awaitable[Any]]:
    return lambda: layer(call, proceed)


async def _invoke(spec: StepSpec, bound: dict[str, Any]) -> Any:
    args, kwargs = spec.args.spread(bound)
    if spec.is_async:
        return await spec.fn(*args, **kwargs)
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    return await loop.run_in_executor(None, lambda: context.run(spec.fn, *args, **kwargs))


async def stream_step(
    spec: StepSpec,
    args: bytes,
    context: StepContext,
    agent: str,
    middleware: Sequence[Middleware],
    *,
    emit: Callable[[int, bytes], None],
) -> bytes:
    """Run the body of a streaming step, hand on its encoded parts, and return how many there were.

    To middleware the number of parts is the result.
    """
    bound = _decode(spec, args, context)
    call_args, kwargs = spec.args.spread(bound)
    STEP.set(context)  # this coroutine is a task of its own, so the context is too

    async def body() -> int:
        n = 0
        async with asyncio.timeout(spec.timeout_s):
            async for part in spec.fn(*call_args, **kwargs):
                n += 1
                emit(n, spec.result.encode(part))
        return n

    call = StepCall(context.run, agent, context.key, spec.name, spec.effect, context.attempt, bound)
    return b"%d" % await _compose(call, middleware, body)


async def ask_reconcile(spec: StepSpec, args: bytes, context: StepContext, seed: int) -> Any:
    """Ask a step's ``reconcile`` what became of it; returns the outcome's value or a verdict.

    It may fail some times, for a lookup is a request like others; then it cannot be told.
    """
    for attempt in range(1, RECONCILE_ATTEMPTS + 1):
        try:
            return await _call_reconcile(spec, args, context)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no evidence
            said = repr(error) if context.secrets is None else context.secrets.text(repr(error))
            _LOG.info("run %r step %s: reconcile failed: %s", context.run, context.key, said)
            wait_s = backoff_s(attempt + 1, base_s=0.2, cap_s=5.0, seed=seed, key=context.key)
            await asyncio.sleep(wait_s)
    return UNKNOWN


async def _call_reconcile(spec: StepSpec, args: bytes, context: StepContext) -> Any:
    assert spec.reconcile is not None
    inner = spec_of(spec.reconcile)
    token = STEP.set(context)
    try:
        bound = _decode(spec, args, context)
        wanted = inspect.signature(spec.reconcile).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in wanted.values()):
            bound = {name: value for name, value in bound.items() if name in wanted}
        fn = inner.fn if inner is not None else spec.reconcile
        if inspect.iscoroutinefunction(fn):
            return await fn(**bound)
        context_copy = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            None, lambda: context_copy.run(fn, **bound)
        )
    finally:
        STEP.reset(token)


def call_transactional(
    spec: StepSpec, args: bytes, context: StepContext, transaction: Transaction
) -> bytes:
    """Run a transactional body inside the log's transaction and return its encoded result.

    Raises:
        UsageError: an async body awaits something: a transaction waits for nothing but itself.
    """
    call_args, kwargs = spec.args.spread(_decode(spec, args, context))
    context.transaction = transaction
    in_context = contextvars.copy_context()
    in_context.run(STEP.set, context)
    result = in_context.run(spec.fn, *call_args, **kwargs)
    if spec.is_async:
        try:
            in_context.run(result.send, None)
        except StopIteration as stop:
            result = stop.value
        else:
            result.close()
            raise UsageError(
                f"{spec.what} awaits something inside the log's transaction. Hint: only"
                " hf.transaction().execute(…), which is not awaited; fetch what you need in a"
                " step before."
            )
    return spec.result.encode(result)


def as_error(error: BaseException) -> BaseException:
    """Return what to record for an exception of a body."""
    if isinstance(error, TimeoutError) and not str(error):
        return StepFailed("TimeoutError", "the attempt took too long", retryable=True)
    return error
