"""Tools as a model meets them: described, called, answered.

*Goal*: ``hf.call`` carries out what the model chose among the tools it was shown, whatever form
the call has. *Method*: calls as dicts and as objects of a client, in async and sync agents.
"""

import types

import pytest

import holdfast as hf


@hf.tool(effect="read")
async def look(n: int) -> dict[str, int]:
    """Look it up."""
    return {"n": n}


@hf.tool(effect="read")
def read_sync(name: str) -> str:
    return f"text of {name}"


@hf.tool(effect="once")
async def unstorable(n: int) -> object:
    return {n, "a set"} if n else object()


def tool_call(name, arguments="{}"):
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def content(stage, call, *, tools=(look, read_sync), shown=()):
    """What the model is answered, in a run."""

    @hf.agent(tools=tools)
    async def job() -> dict[str, str]:
        if shown:
            hf.schemas(*shown)
        return await hf.call(call)

    s = stage(job)
    s.start(job)
    s.play()
    answer = s.result()
    assert {name: answer[name] for name in ("role", "tool_call_id")} == {
        "role": "tool",
        "tool_call_id": "c1",
    }
    return answer["content"]


def test_a_result_is_answered_as_json_and_text_as_it_is(stage):
    assert content(stage, tool_call("look", '{"n": 5}')) == '{"n":5}'
    assert content(stage, tool_call("read_sync", '{"name": "a"}')) == "text of a"


def test_a_call_may_be_an_object_of_a_client(stage):
    data = tool_call("look", '{"n": 5}')
    call = types.SimpleNamespace(model_dump=lambda: data)
    assert content(stage, call) == '{"n":5}'


def test_tools_shown_in_the_run_may_be_called_too(stage):
    assert content(stage, tool_call("look", '{"n": 5}'), tools=(), shown=[look]) == '{"n":5}'
    unknown = content(stage, tool_call("look"), tools=[read_sync], shown=[])
    assert unknown == "error: there is no tool 'look'; there are read_sync"


def test_without_arguments_the_agents_own_tools_are_described(stage):
    @hf.agent(tools=[look, read_sync])
    async def job() -> list[str]:
        return [described["function"]["name"] for described in hf.schemas()]

    s = stage(job)
    s.start(job)
    s.play()
    assert s.result() == ["look", "read_sync"]


def test_a_call_without_any_tools_is_a_mistake_that_says_what_to_do(stage):
    @hf.agent
    async def job() -> None:
        await hf.call(tool_call("look"))

    s = stage(job)
    s.start(job)
    s.play()
    with pytest.raises(hf.RunFailed, match=r"hf\.call knows no tools\. Hint"):
        s.result()


def test_a_deed_whose_result_cannot_be_written_is_not_told_as_an_error(stage):
    @hf.agent(tools=[unstorable])
    async def job() -> dict[str, str]:
        return await hf.call(tool_call("unstorable", '{"n": 0}'))

    s = stage(job)
    s.start(job)
    s.play()
    with pytest.raises(hf.RunFailed, match="CodecError"):
        s.result()
