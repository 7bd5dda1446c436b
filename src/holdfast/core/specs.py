"""What a decorator found out about a function: the specs of steps, tools and agents.

A spec is immutable in spirit and belongs to its function (``fn.__holdfast__``); there is no
registry. Codecs are made on first use, since reading annotations means importing pydantic.
"""

import functools
import inspect
import json
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.core.bodies import DEFAULT_QUEUE
from holdfast.core.codec import ArgsCodec, Codec, annotations_of, json_bytes
from holdfast.core.limits import (
    AGENT_NAME_CHARS_MAX,
    QUEUE_NAME_CHARS_MAX,
    STEP_NAME_CHARS_MAX,
    check_name,
)
from holdfast.core.retry import Retry
from holdfast.errors import CodecError, UsageError

__all__ = [
    "EFFECTS",
    "AgentSpec",
    "Effect",
    "StepSpec",
    "agent_spec",
    "spec_of",
    "tool_spec",
    "tools_of",
]

Effect = Literal["read", "idempotent", "transactional", "once"]
EFFECTS: tuple[str, ...] = typing.get_args(Effect)

READ_RETRY = Retry(attempts=3, base_s=0.2, cap_s=10.0)
EFFECT_RETRY = Retry(attempts=6, base_s=0.2, cap_s=30.0)


@dataclass(eq=False)
class StepSpec:
    """A step: its body, contract and codecs.

    ``reconcile`` takes the step's own arguments and returns the outcome, ``NOT_DONE`` or
    ``UNKNOWN``. ``compensate`` takes the step's own arguments and, if it has a parameter of that
    name, ``outcome``.
    """

    name: str
    fn: Callable[..., Any]
    effect: str
    is_tool: bool = False
    reconcile: Callable[..., Any] | None = None
    compensate: Callable[..., Any] | None = None
    retry: Retry = READ_RETRY
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        what = "tool" if self.is_tool else "step"
        if self.effect not in EFFECTS:
            raise UsageError(
                f"{what} {self.name!r}: effect={self.effect!r} is not an effect contract;"
                f" choose one of {', '.join(EFFECTS)}"
            )
        if "#" in self.name or not 0 < len(self.name) <= STEP_NAME_CHARS_MAX:
            raise UsageError(
                f"{what} name {self.name!r}: expected 1 to {STEP_NAME_CHARS_MAX} characters"
                " without '#'"
            )
        if self.reconcile is not None and self.effect != "once":
            raise UsageError(
                f"{what} {self.name!r}: reconcile= settles doubts, which only effect='once'"
                " has, not"
                f" {self.effect!r}"
            )
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise UsageError(
                f"{what} {self.name!r}: timeout={self.timeout_s}: expected seconds > 0"
            )
        self.what = f"{what} {self.name!r}"

    @functools.cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.fn)

    @functools.cached_property
    def streams(self) -> bool:
        return inspect.isasyncgenfunction(self.fn)

    @functools.cached_property
    def args(self) -> ArgsCodec:
        return ArgsCodec(self.fn, self.what)

    @functools.cached_property
    def result(self) -> Codec:
        """The codec of the result; of a part, when the step streams."""
        hint = annotations_of(self.fn, self.what).get("return", Any)
        if self.streams:
            hint = (*typing.get_args(hint), Any)[0]
            return Codec(hint, f"a part from {self.what}")
        return Codec(hint, f"the result of {self.what}")

    def undo(self, args: bytes, value: bytes | None) -> "tuple[StepSpec, bytes]":
        """Return the step that compensates this one, and its arguments.

        Args:
            args: The arguments of the step to undo.
            value: Its outcome.
        """
        assert self.compensate is not None
        spec = spec_of(self.compensate) or StepSpec(
            f"undo:{self.name}", self.compensate, "idempotent", retry=self.retry
        )
        given = dict(self.args.decode(args))
        if value is not None:
            given["outcome"] = self.result.decode(value)
        wanted = {p.name: given[p.name] for p in spec.args.parameters if p.name in given}
        return spec, spec.args.encode(wanted)

    @property
    def description(self) -> str:
        return inspect.cleandoc(self.fn.__doc__ or "")


@dataclass(eq=False)
class AgentSpec:
    """An agent: its function, input, state and result.

    With ``state`` as its first parameter it lives on: each turn takes (state, message) and returns
    the reply, the state changed in place, or a pair (state, reply) if it is annotated so.
    """

    name: str
    fn: Callable[..., Any]
    tools: tuple[Callable[..., Any], ...] = ()
    queue: str = DEFAULT_QUEUE

    def __post_init__(self) -> None:
        check_name("queue", self.queue, QUEUE_NAME_CHARS_MAX)
        if not 0 < len(self.name) <= AGENT_NAME_CHARS_MAX or any(c.isspace() for c in self.name):
            raise UsageError(
                f"agent name {self.name!r}: expected 1 to {AGENT_NAME_CHARS_MAX} characters"
                " without spaces"
            )
        self.what = f"agent {self.name!r}"
        if inspect.isasyncgenfunction(self.fn):
            raise UsageError(
                f"{self.what} is an async generator. Hint: return the result, hf.emit() the parts."
            )
        self.uri = f"agent:{self.name}"

    @functools.cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.fn)

    @functools.cached_property
    def has_state(self) -> bool:
        return next(iter(inspect.signature(self.fn).parameters), "") == "state"

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        return annotations_of(self.fn, self.what)

    @functools.cached_property
    def state(self) -> Codec:
        if "state" not in self._hints:
            raise CodecError(f"{self.what}: annotate its state, so that it can be stored: state: T")
        return Codec(self._hints["state"], f"the state of {self.what}")

    @functools.cached_property
    def args(self) -> ArgsCodec:
        return ArgsCodec(self.fn, self.what, skip=1 if self.has_state else 0)

    @functools.cached_property
    def returns_state(self) -> bool:
        parts = typing.get_args(self._hints.get("return"))
        return self.has_state and len(parts) == 2 and parts[0] == self.state.annotation  # noqa: PLR2004 - a pair

    @functools.cached_property
    def result(self) -> Codec:
        hint = self._hints.get("return", Any)
        if self.returns_state:
            hint = typing.get_args(hint)[1]
        return Codec(hint, f"the result of {self.what}")

    @functools.cached_property
    def _input(self) -> Codec | None:
        """The codec of the only parameter, when there is one: then the input is its bare value."""
        if len(self.args.parameters) != 1:
            return None
        name = self.args.parameters[0].name
        return Codec(self._hints.get(name, Any), f"the input of {self.what}")

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return an input's bytes.

        The bare value of an only parameter, an object of several, null of none.
        """
        if not self.args.parameters and not args and not kwargs:
            return b"null"
        bound = self.args.bind(args, kwargs)
        if self._input is not None:
            return self._input.encode(bound[self.args.parameters[0].name])
        return self.args.encode(bound)

    def decode_input(self, data: bytes | str) -> dict[str, Any]:
        """Return the arguments by name that an input stands for.

        Raises:
            CodecError: the input does not fit the agent's parameters; names the path.
        """
        if not self.args.parameters:
            if data.strip() not in (b"null", "null", b"", ""):
                raise CodecError(f"{self.what} takes no input, not {data[:80]!r}")
            return {}
        if self._input is not None:
            return {self.args.parameters[0].name: self._input.decode(data)}
        return self.args.decode(data)

    def decode_end(self, data: bytes) -> Any:
        """Return what the payload of a successful end stands for: the result, or reply and state.

        Raises:
            CodecError: it fits neither.
        """
        if not self.has_state:
            return self.result.decode(data)
        parts = json.loads(data)
        reply = self.result.decode(json_bytes(parts["reply"]))
        return reply, self.state.decode(json_bytes(parts["state"]))

    async def play(self, message: bytes, state_before: bytes | None) -> bytes:
        """Call the agent for one turn and return its encoded result, or reply and state."""
        args, kwargs = self.args.spread(self.decode_input(message))
        if not self.has_state:
            result = self.fn(*args, **kwargs)
            return self.result.encode(await result if self.is_async else result)
        state = self.first_state() if state_before is None else self.state.decode(state_before)
        result = self.fn(state, *args, **kwargs)
        reply = await result if self.is_async else result
        if self.returns_state:
            state, reply = reply
        return b'{"reply":%b,"state":%b}' % (self.result.encode(reply), self.state.encode(state))

    def first_state(self) -> Any:
        """Return the state before the first turn: the state's type called without arguments."""
        kind = self.state.annotation
        try:
            return (typing.get_origin(kind) or kind)()
        except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
            raise UsageError(
                f"{self.what}: its state cannot begin by itself: {error}. Hint: give every field of"
                f" {kind!r} a default."
            ) from None


def spec_of(fn: Any) -> Any:
    """Return the spec that a decorator of holdfast's left on a function, or None."""
    return getattr(fn, "__holdfast__", None)


def tool_spec(tool: Callable[..., Any]) -> StepSpec:
    """Return a tool's spec.

    Raises:
        UsageError: it is not a tool of holdfast's.
    """
    spec = spec_of(tool)
    if not isinstance(spec, StepSpec):
        raise UsageError(f"{tool!r} is not a tool. Hint: put @hf.tool above it.")
    return spec


def tools_of(tools: Iterable[Callable[..., Any]]) -> tuple[Callable[..., Any], ...]:
    """Check a list of tools and return it.

    Raises:
        UsageError: one is not a tool, or two have one name.
    """
    checked = tuple(tools)
    names = [tool_spec(tool).name for tool in checked]
    if len(set(names)) < len(names):
        raise UsageError(f"two tools have one name: {', '.join(sorted(names))}")
    return checked


def agent_spec(fn: Any) -> AgentSpec:
    """Return an agent's spec.

    Raises:
        UsageError: it is not an agent.
    """
    spec = fn if isinstance(fn, AgentSpec) else spec_of(fn)
    if not isinstance(spec, AgentSpec):
        raise UsageError(f"{fn!r} is not an agent. Hint: put @hf.agent above it.")
    return spec
