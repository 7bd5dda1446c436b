"""What a value says in a few words.

*Goal*: of an HTTP exchange and a model's answer, what people look for stands first; any other value
is its JSON, and nothing that a log may hold makes it fail. *Method*: examples, and random JSON put
into the places that are looked at.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.gist import gist
from holdfast.cli.text import excerpt


def answer(body):
    return {"status": 200, "headers": [["a", "b"]], "body": json.dumps(body), "base64": False}


def request(**rest):
    return {"method": "POST", "url": "http://x/y", "headers": {}, **rest}


CALL = {"id": "c1", "function": {"name": "refund", "arguments": '{"cents":5}'}}
SAYS = {"choices": [{"message": {"role": "assistant", "content": "hello"}}], "usage": {}}
CALLS = {"choices": [{"message": {"content": None, "tool_calls": [CALL, CALL]}}]}
BLOCKS = [{"type": "text", "text": "ok"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"cents": 5}, '{"cents":5}'),
        (None, "null"),
        (answer(SAYS), "200 hello"),
        (answer(CALLS), '200 refund({"cents":5}) refund({"cents":5})'),
        (answer({"role": "assistant", "content": BLOCKS}), '200 ok f({"a":1})'),
        (answer({"error": "no"}), '200 {"error": "no"}'),
        (answer("x") | {"body": "<html>"}, "200 <html>"),
        (request(), "http://x/y"),
        (request(json={"a": 1}), '{"a":1}'),
        (request(json={"messages": [{"role": "user", "content": "hi"}]}), "user: hi"),
        (
            request(json={"messages": [{}, {}, {"role": "tool", "content": ["x"]}]}),
            '2 messages, then tool: ["x"]',
        ),
    ],
)
def test_it_says_what_people_look_for(value, said):
    assert gist(value) == said
    assert excerpt(json.dumps(value, separators=(",", ":")).encode(), 500) == said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "tool_calls", "function", "role"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_it_never_fails(value):
    assert isinstance(gist(value), str)
    assert isinstance(gist(answer(value)), str)
    assert isinstance(gist(answer({"choices": [{"message": value}]})), str)
    assert isinstance(gist(answer({"role": "assistant", "content": value})), str)
    assert isinstance(gist(request(json=value)), str)
    assert isinstance(gist(request(json={"messages": value})), str)
