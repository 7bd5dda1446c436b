"""What a decorator found out about a function: its contract, codecs, input, state and result.

*Goal*: contradictions are refused where they are written, and inputs are read and written by the
annotations alone. *Method*: single cases, by decorators as users write them.
"""

import dataclasses
import json

import pydantic
import pytest

import holdfast as hf
from holdfast.core.limits import AGENT_NAME_CHARS_MAX, STEP_NAME_CHARS_MAX
from holdfast.core.specs import agent_spec, spec_of, tool_spec, tools_of
from holdfast.errors import CodecError, UsageError


async def body(order: str, cents: int = 5) -> str:
    """Move money.

    Longer text.
    """
    return f"{order} {cents}"


def reconcile(order: str) -> str:
    return order


# Steps and tools


def test_a_step_is_a_read_and_a_tool_is_once_unless_they_say_otherwise():
    assert (spec_of(hf.step(body)).effect, spec_of(hf.step(body)).is_tool) == ("read", False)
    assert (spec_of(hf.tool(body)).effect, spec_of(hf.tool(body)).is_tool) == ("once", True)
    assert spec_of(hf.tool(effect="idempotent")(body)).effect == "idempotent"


def test_a_decorated_function_keeps_its_name_and_docstring():
    refund = hf.tool(name="refund")(body)
    assert (refund.__name__, refund.__doc__) == (body.__name__, body.__doc__)
    assert spec_of(refund).name == "refund"
    assert spec_of(refund).description == "Move money.\n\nLonger text."
    assert spec_of(body) is None


def test_a_spec_tells_async_sync_and_streaming_apart():
    def sync() -> int: ...

    async def streaming():
        yield 1

    kinds = [
        (spec_of(hf.step(f)).is_async, spec_of(hf.step(f)).streams) for f in (body, sync, streaming)
    ]
    assert kinds == [(True, False), (False, False), (False, True)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"effect": "sometimes"},
            "'sometimes' is not an effect contract; choose one of read, idem",
        ),
        ({"name": "a#1"}, "without '#'"),
        ({"name": "a" * (STEP_NAME_CHARS_MAX + 1)}, f"1 to {STEP_NAME_CHARS_MAX} characters"),
        ({"effect": "idempotent", "reconcile": reconcile}, "reconcile= settles doubts"),
        ({"effect": "read", "reconcile": reconcile}, "not 'read'"),
        ({"timeout": 0}, "expected seconds > 0"),
        ({"timeout": -1}, "timeout=-1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, text):
    with pytest.raises(UsageError) as caught:
        hf.tool(**options)(body)
    assert text in str(caught.value)
    assert str(caught.value).startswith("tool ")


def test_decorating_twice_or_no_function_is_refused():
    with pytest.raises(UsageError, match="decorated twice"):
        hf.step(hf.tool(body))
    with pytest.raises(UsageError, match="@tool wants a function, not 'x'"):
        hf.tool("x")
    with pytest.raises(UsageError, match="@agent wants a function"):
        hf.agent(dict)


def test_tools_are_checked():
    @hf.tool
    async def pay(cents: int) -> None: ...

    @hf.tool(name="pay")
    async def other(cents: int) -> None: ...

    assert tools_of([pay]) == (pay,)
    assert tool_spec(pay).name == "pay"
    with pytest.raises(UsageError, match=r"Hint: put @hf\.tool above it"):
        tool_spec(body)
    with pytest.raises(UsageError, match="two tools have one name: pay, pay"):
        hf.agent(tools=[pay, other])(body)


def test_the_result_of_a_stream_is_its_part():
    from collections.abc import AsyncIterator  # noqa: PLC0415 - only here

    @hf.step
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(CodecError, match="a part from step 'numbers'"):
        spec_of(numbers).result.encode("x")


def test_an_undo_takes_the_arguments_it_names_and_the_outcome():
    def unbook(cents: int, outcome: str) -> None: ...

    @hf.tool(compensate=unbook)
    async def book(order: str, cents: int) -> str: ...

    undo, args = spec_of(book).undo(b'{"order":"a","cents":5}', b'"ref-1"')
    assert (undo.name, undo.effect) == ("undo:book", "idempotent")
    assert json.loads(args) == {"cents": 5, "outcome": "ref-1"}


def test_an_undo_that_is_a_tool_keeps_its_own_name_and_contract():
    @hf.tool(effect="once")
    async def unbook(order: str) -> None: ...

    @hf.tool(compensate=unbook)
    async def book(order: str) -> str: ...

    undo, args = spec_of(book).undo(b'{"order":"a"}', b'"x"')
    assert undo is spec_of(unbook)
    assert args == b'{"order":"a"}'


# Agents


class Ticket(pydantic.BaseModel):
    order: str
    cents: int = 0


@dataclasses.dataclass
class Chat:
    said: list[str] = dataclasses.field(default_factory=list)


@hf.agent
async def none() -> int: ...
@hf.agent
async def one(ticket: Ticket) -> str: ...
@hf.agent
async def two(order: str, cents: int = 5) -> str: ...
@hf.agent
async def chat(state: Chat, message: str) -> str: ...


@pytest.mark.parametrize(
    ("agent", "args", "data", "decoded"),
    [
        (none, (), b"null", {}),
        (one, (Ticket(order="a"),), b'{"order":"a","cents":0}', {"ticket": Ticket(order="a")}),
        (two, ("a",), b'{"order":"a","cents":5}', {"order": "a", "cents": 5}),
        (chat, ("hi",), b'"hi"', {"message": "hi"}),
    ],
)
def test_an_input_is_the_bare_value_of_one_parameter_or_an_object_of_several(
    agent, args, data, decoded
):
    spec = agent_spec(agent)
    assert spec.encode_input(args, {}) == data
    assert spec.decode_input(data) == decoded


def test_an_input_given_as_json_gets_its_defaults():
    assert agent_spec(two).decode_input('{"order":"a"}') == {"order": "a", "cents": 5}
    assert agent_spec(one).decode_input('{"order":"a"}') == {"ticket": Ticket(order="a")}


@pytest.mark.parametrize(
    ("agent", "data", "text"),
    [
        (none, b"5", "agent 'none' takes no input, not b'5'"),
        (one, b'{"order":3}', "the input of agent 'one', $.order: "),
        (one, b"{", "the input of agent 'one', $: Invalid JSON"),
        (two, b'{"order":"a","cents":"x"}', "the arguments of agent 'two', $.cents: "),
        (two, b'{"orders":"a"}', "$.order: Field required"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_with_its_path(agent, data, text):
    with pytest.raises(CodecError) as caught:
        agent_spec(agent).decode_input(data)
    assert text in str(caught.value)


def test_wrong_arguments_are_refused_before_a_run_exists():
    with pytest.raises(TypeError, match="agent 'none'"):
        agent_spec(none).encode_input((1,), {})
    with pytest.raises(CodecError, match="the input of agent 'one'"):
        agent_spec(one).encode_input(("no ticket",), {})


def test_an_agent_with_state_begins_with_its_types_default():
    spec = agent_spec(chat)
    assert spec.has_state
    assert spec.first_state() == Chat()
    assert not agent_spec(one).has_state


def test_a_generic_state_begins_empty():
    @hf.agent
    async def count(state: dict[str, int], message: str) -> int: ...

    assert agent_spec(count).first_state() == {}


def test_a_state_that_cannot_begin_by_itself_is_refused_with_a_hint():
    @hf.agent
    async def strict(state: Ticket, message: str) -> str: ...

    @hf.agent
    async def needy(state: NeedsMore, message: str) -> str: ...

    with pytest.raises(UsageError, match="Hint: give every field"):
        agent_spec(needy).first_state()
    with pytest.raises(UsageError, match="Hint: give every field"):
        agent_spec(strict).first_state()


@dataclasses.dataclass
class NeedsMore:
    name: str


def test_a_state_without_annotation_is_refused_with_a_hint():
    @hf.agent
    async def vague(state, message: str) -> tuple[int, str]: ...

    for ask in (agent_spec(vague).first_state, lambda: agent_spec(vague).returns_state):
        with pytest.raises(CodecError, match="annotate its state"):
            ask()


def test_a_pair_that_begins_with_the_state_is_state_and_reply():
    @hf.agent
    async def returns(state: Chat, message: str) -> tuple[Chat, int]: ...

    @hf.agent
    async def replies(state: Chat, message: str) -> tuple[int, int]: ...

    assert agent_spec(returns).returns_state
    assert agent_spec(returns).result.annotation is int
    assert not agent_spec(replies).returns_state


@pytest.mark.parametrize("name", ["a b", "\t", "a" * (AGENT_NAME_CHARS_MAX + 1)])
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(UsageError, match="without spaces"):
        hf.agent(name=name)(body)


def test_an_agent_that_yields_is_refused_with_a_hint():
    async def streaming():
        yield 1

    with pytest.raises(UsageError, match=r"hf\.emit"):
        hf.agent(streaming)


def test_what_is_no_agent_is_refused_with_a_hint():
    for thing in (body, hf.tool(body), 5):
        with pytest.raises(UsageError, match=r"Hint: put @hf\.agent above it"):
            agent_spec(thing)


# Tool descriptions


def test_tools_are_described_in_the_openai_format():
    @hf.tool(name="refund")
    async def refund(order: str, cents: int = 5, reason: str | None = None) -> str:
        """Refund an order."""
        return f"{order} {cents} {reason}"

    assert hf.schemas(refund) == [
        {
            "type": "function",
            "function": {
                "name": "refund",
                "description": "Refund an order.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "order": {"type": "string"},
                        "cents": {"type": "integer"},
                        "reason": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    },
                    "required": ["order"],
                    "additionalProperties": False,
                },
            },
        }
    ]


def test_a_tool_without_parameters_has_an_empty_object():
    @hf.tool
    async def stop() -> None: ...

    parameters = hf.schemas(stop)[0]["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {}, "additionalProperties": False}
