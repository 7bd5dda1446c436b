"""``@agent`` describes an agent; calling one inside a run starts a child run and waits for it."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from holdfast.core.events import DEFAULT_QUEUE
from holdfast.core.machine import current_or_none
from holdfast.core.specs import AgentSpec, tools_of
from holdfast.errors import UsageError
from holdfast.runtime import sleeping
from holdfast.runtime.context import warn_outside_run

__all__ = ["agent"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def agent(fn: F, /) -> F: ...
@overload
def agent(
    *, name: str = "", tools: Iterable[Callable[..., Any]] = (), queue: str = DEFAULT_QUEUE
) -> Callable[[F], F]: ...
def agent(
    fn: Any = None,
    /,
    *,
    name: str = "",
    tools: Iterable[Callable[..., Any]] = (),
    queue: str = DEFAULT_QUEUE,
) -> Any:
    """Make a function an agent.

    A plain agent takes an input and returns a result: one turn. One whose first parameter is
    ``state: T`` lives on and takes a message in each turn; T is made without arguments at first,
    changed in place (or returned as the first of a pair), and stored between turns.

    Args:
        fn: An async or sync function, deterministic but for the steps it calls.
        name: Instead of the function's name; what the log calls it.
        tools: The tools that ``hf.call`` may call.
        queue: Where its runs wait for a worker, unless their start names another.

    Raises:
        UsageError: it is not such a function.
    """

    def decorate(function: Any) -> Any:
        if not callable(function) or isinstance(function, type):
            raise UsageError(f"@agent wants a function, not {function!r}")
        sleeping.install()
        spec = AgentSpec(name or function.__name__, function, tools_of(tools), queue)
        wrapper = _async_wrapper(spec) if spec.is_async else _sync_wrapper(spec)
        wrapper.__holdfast__ = spec
        return wrapper

    return decorate if fn is None else decorate(fn)


def _async_wrapper(spec: AgentSpec) -> Any:
    @functools.wraps(spec.fn)
    async def call_agent(*args: Any, **kwargs: Any) -> Any:
        machine = current_or_none()
        if machine is None:
            warn_outside_run(spec.what)
            return await spec.fn(*args, **kwargs)
        child = machine.child(_child(spec), spec.encode_input(args, kwargs))
        return spec.result.decode(await machine.outcome(child))

    return call_agent


def _sync_wrapper(spec: AgentSpec) -> Any:
    @functools.wraps(spec.fn)
    def call_agent(*args: Any, **kwargs: Any) -> Any:
        machine = current_or_none()
        if machine is None:
            warn_outside_run(spec.what)
            return spec.fn(*args, **kwargs)
        child = machine.child(_child(spec), spec.encode_input(args, kwargs))
        return spec.result.decode(machine.wait(child))

    return call_agent


def _child(spec: AgentSpec) -> AgentSpec:
    if spec.has_state:
        raise UsageError(
            f"{spec.what} lives on and has no result to wait for. Hint: hf.send a message to"
            " its run."
        )
    return spec
