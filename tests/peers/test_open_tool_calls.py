"""Every tool call of a model is answered, whatever became of it.

The fault: a call is interrupted, names no tool or has broken arguments, and stays without an
answer in the transcript; from then on the provider refuses the whole conversation. Reported as
claude-code #3003, opencode #21326 and letta #3273.

*Goal*: each ``tool_call_id`` has exactly one answer behind it. *Method*: a provider that refuses as
real ones do, calls of every broken kind at once, and a kill at each write.
"""

import asyncio
import itertools
import json

import pytest

import holdfast as hf


def check(messages):
    """Refuse a conversation as a provider does."""
    open_calls = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls, "an answer to no call"
            open_calls.remove(message["tool_call_id"])
        else:
            assert not open_calls, f"calls without answer: {open_calls}"
            open_calls = [call["id"] for call in message.get("tool_calls", [])]
    assert not open_calls, f"calls without answer: {open_calls}"


def tool_call(n, name, arguments):
    return {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": arguments}}


CALLS = {
    "look": '{"n": 1}',
    "look with nothing": "",
    "look with broken JSON": '{"n": ',
    "look with another type": '{"n": "one"}',
    "look with too much": '{"n": 1, "m": 2}',
    "look with a list": "[1]",
    "nosuchtool": "{}",
    "refuse": '{"n": 1}',
    "mistaken": '{"n": 1}',
}
ANSWERS = {
    "look": "10",
    "look with nothing": "error: the arguments of tool 'look', $.n: Field required",
    "look with broken JSON": "error: the arguments of tool 'look', $: Invalid JSON",
    "look with another type": "error: the arguments of tool 'look', $.n: Input should be a valid",
    "look with too much": "error: the arguments of tool 'look', $.m: Extra inputs",
    "look with a list": "error: the arguments of tool 'look', $: Input should be",
    "nosuchtool": "error: there is no tool 'nosuchtool'; there are look, mistaken, refuse",
    "refuse": "error: NotDone: not 1 today",
    "mistaken": "error: KeyError: 'n'",
}


@hf.tool(effect="read")
async def look(n: int) -> int:
    return n * 10


@hf.tool(effect="once")
async def refuse(n: int) -> int:
    raise hf.NotDone(f"not {n} today")


@hf.tool(effect="read")
def mistaken(n: int) -> int:
    return {}["n"] + n


@hf.step
async def complete(messages: list[dict[str, object]]) -> dict[str, object]:
    check(messages)
    if len(messages) > 1:
        return {"role": "assistant", "content": "done"}
    calls = [tool_call(n, kind.split()[0], CALLS[kind]) for n, kind in enumerate(CALLS)]
    return {"role": "assistant", "tool_calls": calls}


@hf.agent(tools=[look, refuse, mistaken])
async def job() -> list[dict[str, object]]:
    messages = [{"role": "user", "content": "go"}]
    while True:
        messages.append(await complete(messages))
        if "tool_calls" not in messages[-1]:
            return messages
        messages += await asyncio.gather(*map(hf.call, messages[-1]["tool_calls"]))


def test_calls_of_every_kind_are_answered_through_a_kill_at_every_write(stage):
    for write in itertools.count(1):
        s = stage(job)
        s.start(job)
        killed = s.work_until_killed(write, made=True)
        s.play()
        if s.status() == "in_doubt":  # killed between the intent and the refusal
            with pytest.raises(hf.RunParked):
                s.result()
            s.run(s.client.resolve("r", "refuse#1", did_not=True, by="ann"))
            s.play()
        messages = s.result()
        check(messages)
        given = {m["tool_call_id"]: m["content"] for m in messages if m["role"] == "tool"}
        for n, kind in enumerate(CALLS):
            assert given[f"c{n}"].startswith(ANSWERS[kind])
        if not killed:
            break
    assert write > 3


def test_a_call_in_doubt_is_answered_when_there_is_an_outcome(stage):
    @hf.tool(effect="once")
    async def pay(cents: int) -> str:
        raise TimeoutError(f"no answer about {cents}")

    @hf.agent(tools=[pay])
    async def payer() -> str:
        call = tool_call(1, "pay", json.dumps({"cents": 5}))
        return (await hf.call(call))["content"]

    s = stage(payer)
    s.start(payer)
    s.play()
    assert s.status() == "in_doubt"
    s.run(s.client.resolve("r", "pay#1", happened="receipt 7", by="ann"))
    s.play()
    assert s.result() == "receipt 7"
