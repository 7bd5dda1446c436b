"""A provider's Retry-After is heard by the whole fleet.

*Goal*: where one run was told to wait, runs of all workers do; requests that name no model and
effects are not held up. *Method*: the stock OpenAI client against a server on this machine, two
workers with a store of their own on one file, and a rest whose end the test decides.
"""

import asyncio
import time

import pytest

import holdfast as hf

HOUR_US = 3_600_000_000


@pytest.fixture
def desk(provider):
    @hf.agent
    async def desk(model: str) -> str:
        client = provider.model(max_retries=0)
        messages = [{"role": "user", "content": "hi"}]
        answer = await client.chat.completions.create(model=model, messages=messages)
        return answer.choices[0].message.content

    return desk


async def arrived(provider, count):
    while len(provider.requests) < count:  # noqa: ASYNC110 - the test's timeout ends it
        await asyncio.sleep(0.001)
    assert len(provider.requests) == count


def test_all_workers_leave_alone_a_model_that_one_was_refused_by(provider, http, desk, tmp_path):
    provider.answers = [http.refuse(429, {"retry-after": "3600"}), http.say("well")]
    url = f"{tmp_path}/holdfast.db"

    async def main():
        async with hf.App(url, agents=[desk]) as one, hf.App(url, agents=[desk]) as two:
            async with one.working():
                with pytest.raises(hf.RunFailed, match="429"):
                    await one.run(desk, "m")
            [rest] = await two.store.rests(now=time.time_ns() // 1000)
            assert rest.provider == f"127.0.0.1:{provider.port} m"
            assert 0 < rest.left_us <= HOUR_US
            async with one.working(), two.working():
                runs = [await one.client.start(desk, "m", id=f"r{n}") for n in range(8)]
                assert await two.run(desk, "other") == "well"
                assert [seen.json["model"] for seen in provider.requests] == ["m", "other"]
                await two.store.rest(rest.provider, now=time.time_ns() // 1000, rest_us=0)
                assert {await one.client.result(run) for run in runs} == {"well"}
            await arrived(provider, 10)
            assert await one.store.rests(now=time.time_ns() // 1000) == []

    asyncio.run(main())


@pytest.mark.parametrize("held", ["no model", "an effect"])
def test_what_names_no_model_and_what_is_an_effect_is_not_held_up(provider, held, tmp_path):
    provider.answers = [lambda connection: connection.reply(200, {"ok": True})]

    @hf.agent
    async def act(given: str) -> bool:
        effect = "idempotent" if given == "an effect" else "read"
        json = {"model": "m"} if given == "an effect" else {"n": 1}
        client = hf.async_http_client(effect=effect)
        return (await client.post(f"{provider.url}/orders", json=json)).json()["ok"]

    async def main():
        async with hf.App(f"{tmp_path}/holdfast.db", agents=[act]) as app:
            now, name = time.time_ns() // 1000, f"127.0.0.1:{provider.port}"
            for provider_name in (name, f"{name} ", f"{name} m"):
                await app.store.rest(provider_name, now=now, rest_us=HOUR_US)
            assert await app.run(act, held) is True

    asyncio.run(main())
