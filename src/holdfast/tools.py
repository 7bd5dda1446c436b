"""``@step`` and ``@tool`` describe a function; a call inside a run asks the machine for it.

The decorated function stays what it was: outside a run it is called as it stands (with one warning,
since nothing is recorded then), inside the body of another step it is plain code. Inside a run its
arguments are encoded, the machine issues a step, and the caller gets the decoded outcome.
"""

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar, cast, overload

from holdfast.core.calls import Call
from holdfast.core.codec import SECRET
from holdfast.core.machine import Machine, current_or_none
from holdfast.core.retry import Retry
from holdfast.core.specs import EFFECT_RETRY, READ_RETRY, Effect, StepSpec, spec_of, tool_spec
from holdfast.errors import CodecError, StepFailed, UsageError
from holdfast.runtime.context import warn_outside_run

__all__ = ["call", "schemas", "step", "tool"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def step(fn: F, /) -> F: ...
@overload
def step(
    *,
    effect: Effect = "read",
    name: str = "",
    compensate: Callable[..., Any] | None = None,
    reconcile: Callable[..., Any] | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
) -> Callable[[F], F]: ...
def step(fn: Any = None, /, **options: Any) -> Any:
    """Make a function a step: its outcome is recorded once and given again on replay.

    Use it for what is not pure computation. Unless told otherwise a step is ``read``: harmless to
    repeat.

    Args:
        fn: An async or sync function, or an async generator (a ``read`` whose parts are recorded
        one by one).
        options: As for ``tool``.
    """
    options.setdefault("effect", "read")
    return _decorate(fn, is_tool=False, **options)


@overload
def tool(fn: F, /) -> F: ...
@overload
def tool(
    *,
    effect: Effect = "once",
    name: str = "",
    compensate: Callable[..., Any] | None = None,
    reconcile: Callable[..., Any] | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
) -> Callable[[F], F]: ...
def tool(fn: Any = None, /, **options: Any) -> Any:
    """Make a function a tool: a step that a model may choose and a policy can judge.

    Args:
        fn: An async or sync function; its annotations and docstring describe it to models.
        options: ``effect``: what may happen twice: ``read`` (anything), ``idempotent`` (the deed
            under one ``hf.idempotency_key()``), ``transactional`` (nothing: the body uses
            ``hf.transaction()``), or ``once``, the default (nothing: after a crash without an
            outcome the step is in doubt). ``reconcile``: takes the tool's own arguments and returns
            the outcome, ``hf.NOT_DONE`` or ``hf.UNKNOWN``. ``compensate``: takes the tool's own
            arguments, and ``outcome`` if it has such a parameter; called, the latest first, when
            the run fails or is cancelled. ``retry``: an ``hf.Retry``. ``timeout``: seconds for one
            attempt. ``name``: instead of the function's.

    Raises:
        UsageError: the options contradict each other.
    """
    options.setdefault("effect", "once")
    return _decorate(fn, is_tool=True, **options)


def _decorate(
    fn: Any,
    *,
    is_tool: bool,
    effect: str,
    name: str = "",
    reconcile: Callable[..., Any] | None = None,
    compensate: Callable[..., Any] | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
) -> Any:
    def decorate(function: Any) -> Any:
        if not callable(function):
            raise UsageError(f"@{'tool' if is_tool else 'step'} wants a function, not {function!r}")
        if spec_of(function) is not None:
            raise UsageError(f"{function.__name__!r} is decorated twice")
        spec = StepSpec(
            name or function.__name__,
            function,
            effect,
            is_tool=is_tool,
            reconcile=reconcile,
            compensate=compensate,
            retry=retry or (READ_RETRY if effect == "read" else EFFECT_RETRY),
            timeout_s=timeout,
        )
        wrapper = _wrapper(spec)
        wrapper.__holdfast__ = spec
        return wrapper

    return decorate if fn is None else decorate(fn)


def _wrapper(spec: StepSpec) -> Any:
    if spec.streams:
        return _stream_wrapper(spec)
    return _async_wrapper(spec) if spec.is_async else _sync_wrapper(spec)


def _stream_wrapper(spec: StepSpec) -> Any:
    @functools.wraps(spec.fn)
    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        machine = _machine_for(spec)
        if machine is None:
            async for part in spec.fn(*args, **kwargs):
                yield part
            return
        async with contextlib.aclosing(machine.parts(_ask(machine, spec, args, kwargs))) as parts:
            async for data in parts:
                yield spec.result.decode(data)

    return stream


def _async_wrapper(spec: StepSpec) -> Any:
    @functools.wraps(spec.fn)
    async def async_step(*args: Any, **kwargs: Any) -> Any:
        machine = _machine_for(spec)
        if machine is None:
            return await spec.fn(*args, **kwargs)
        return spec.result.decode(await machine.outcome(_ask(machine, spec, args, kwargs)))

    return async_step


def _sync_wrapper(spec: StepSpec) -> Any:
    @functools.wraps(spec.fn)
    def sync_step(*args: Any, **kwargs: Any) -> Any:
        machine = _machine_for(spec)
        if machine is None:
            return spec.fn(*args, **kwargs)
        return spec.result.decode(machine.wait(_ask(machine, spec, args, kwargs)))

    return sync_step


def _ask(machine: Machine, spec: StepSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return machine.step(spec, spec.args.encode(spec.args.bind(args, kwargs)))


def _machine_for(spec: StepSpec) -> Machine | None:
    machine = current_or_none()
    if machine is None:
        warn_outside_run(spec.what)
    return machine


_OUTCOME_LOST = frozenset({"CodecError", "PayloadTooLarge"})
"""The deed was done and its result cannot be written: a model that was told so would do it
again."""


def schemas(*tools: Callable[..., Any]) -> list[dict[str, Any]]:
    """Describe tools in the OpenAI tool format.

    In a run, the tools described become those that ``hf.call`` may call; without arguments, the
    agent's own.

    Raises:
        UsageError: one of them is not a tool of holdfast's.
    """
    machine = current_or_none()
    if machine is not None:
        machine.tools.update({tool_spec(tool).name: tool for tool in tools})
        tools = tools or tuple(machine.tools.values())
    described = []
    for spec in map(tool_spec, tools):
        function = {
            "name": spec.name,
            "description": spec.description,
            "parameters": spec.args.schema(),
        }
        described.append({"type": "function", "function": function})
    return described


def call(tool_call: Any, *tools: Callable[..., Any]) -> Coroutine[Any, Any, dict[str, Any]]:
    """Carry out a model's tool call and return the message that answers it.

    The call never stays unanswered: wrong arguments, an unknown tool and a failure of which it is
    known that nothing happened become an answer that begins with ``error:``. A deed whose outcome
    is unknown has no answer yet: the run waits until there is one.

    Args:
        tool_call: An item of ``message.tool_calls`` of the OpenAI client, or the same as a dict.
        tools: The tools that may be called, besides the agent's own and those described by
        ``schemas`` in this run.

    Returns:
        ``{"role": "tool", "tool_call_id": …, "content": …}``.

    Raises:
        UsageError: no tools are known at all.
    """
    machine = current_or_none()
    known = dict(machine.tools) if machine is not None else {}
    known.update({tool_spec(tool).name: tool for tool in tools})
    if not known:
        raise UsageError(
            "hf.call knows no tools. Hint: @hf.agent(tools=[…]), hf.schemas(…) in the agent,"
            " or hf.call(tool_call, *tools)"
        )
    data = tool_call if isinstance(tool_call, dict) else tool_call.model_dump()
    return _answer(data, known)


async def _answer(data: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    name, arguments = data["function"]["name"], data["function"]["arguments"] or "{}"

    def message(content: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": data["id"], "content": content}

    if name not in known:
        return message(f"error: there is no tool {name!r}; there are {', '.join(sorted(known))}")
    spec = tool_spec(known[name])
    try:
        bound = spec.args.decode(arguments)
    except CodecError as error:
        return message(f"error: {error}")
    if _names_secret(json.loads(arguments)):
        return message("error: a secret cannot be chosen by a model; leave it out")
    args, kwargs = spec.args.spread(bound)
    try:
        result = known[name](*args, **kwargs)
        value = await cast("Coroutine[Any, Any, Any]", result) if spec.is_async else result
    except StepFailed as error:
        if error.error_type in _OUTCOME_LOST:
            raise
        return message(f"error: {error.error_type}: {error.error_message}")
    return message(value if isinstance(value, str) else spec.result.encode(value).decode())


def _names_secret(value: Any) -> bool:
    if isinstance(value, dict):
        return SECRET in value or any(map(_names_secret, value.values()))
    return isinstance(value, list) and any(map(_names_secret, value))
