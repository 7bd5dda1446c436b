"""A stream that ends without its end marker is not taken for a whole one.

The fault: when the connection closes in the middle of a streamed answer, the openai client raises
nothing, and half an answer passes for the answer.

*Goal*: a cut stream is a failure; it is made again, and the agent sees one whole stream. *Method*:
a transport that cuts the first answer, in front of the stock HTTP client; and a streaming step that
fails in the middle.
"""

import json
from collections.abc import AsyncIterator

import httpx

import holdfast as hf
from holdfast.core import events as ev


def chunk(text):
    data = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return f"data: {json.dumps(data)}\n\n".encode()


class Provider(httpx.AsyncBaseTransport):
    """Cuts its first answers without a word."""

    def __init__(self, cuts):
        self.cuts, self.asked = cuts, 0

    async def handle_async_request(self, request):
        self.asked += 1
        whole = [chunk("Hel"), chunk("lo"), b"data: [DONE]\n\n"]
        body = b"".join(whole[:1] if self.asked <= self.cuts else whole)
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, content=body, request=request)


def talker(provider):
    @hf.agent
    async def talk() -> str:
        said = ""
        client = hf.async_http_client(library="httpx", transport=provider)
        url = "http://model.test/v1/chat/completions"
        async with client.stream("POST", url, json={"stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["delta"]["content"]
        return said

    return talk


def test_a_cut_answer_of_a_model_is_asked_for_again(stage):
    provider = Provider(cuts=1)
    talk = talker(provider)
    s = stage(talk)
    s.start(talk)
    s.play()
    assert s.result() == "Hello"
    assert provider.asked == 2
    failed = [json.loads(e.payload) for e in s.events() if isinstance(e.body, ev.StepFailed)]
    assert len(failed) == 1


def test_an_answer_that_is_always_cut_is_an_error(stage):
    provider = Provider(cuts=10**6)
    talk = talker(provider)
    s = stage(talk)
    s.start(talk)
    s.play()
    assert s.status() == "failed"
    assert 1 < provider.asked < 10, "as often as a read is tried, and no more"


def test_a_streaming_step_that_breaks_off_is_made_again_and_seen_once(stage):
    attempts = []

    @hf.step
    async def words() -> AsyncIterator[str]:
        attempts.append(1)
        yield "Hel"
        if len(attempts) == 1:
            raise ConnectionError("cut")
        yield "lo"

    @hf.agent
    async def talk() -> str:
        return "".join([word async for word in words()])

    s = stage(talk)
    s.start(talk)
    s.play()
    assert s.result() == "Hello"
    assert len(attempts) == 2
