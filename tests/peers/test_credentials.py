"""Credentials do not enter the history.

The fault: what a call is made with, keys included, is serialised into the history with its
arguments, where it stays readable for ever. Reported as temporalio/sdk-python #1752.

*Goal*: a key that is sent with a request is found nowhere in the log. *Method*: the stock HTTP
client sends keys in a header, a cookie and the URL; every byte of the log is searched.
"""

import base64

import httpx

import holdfast as hf

KEY = "sk-never-to-be-written-down"


def test_a_key_that_was_sent_is_nowhere_in_the_log(stage):
    sent = []

    def answer(request):
        sent.append(request)
        return httpx.Response(200, json={"ok": True}, headers={"set-cookie": f"s={KEY}"})

    @hf.agent
    async def job() -> str:
        client = hf.async_http_client(
            library="httpx",
            transport=httpx.MockTransport(answer),
            headers={"authorization": f"Bearer {KEY}", "x-api-key": KEY},
            cookies={"session": KEY},
        )
        first = await client.get("http://shop.test/orders/7", params={"api_key": KEY})
        second = await client.post("http://shop.test/refunds", json={"order": 7}, auth=("me", KEY))
        return first.text + second.text

    s = stage(job)
    s.start(job)
    s.play()
    assert s.result() == '{"ok":true}{"ok":true}'
    assert len(sent) == 2
    assert sent[0].headers["x-api-key"] == KEY, "it was sent indeed"
    log = b"".join(event.leaf + (event.payload or b"") for event in s.events())
    for secret in (KEY.encode(), base64.b64encode(f"me:{KEY}".encode())):
        assert secret not in log
