"""A diverged run waits for its code, not for a person to wake it.

Goal: after the code is mended and the worker started again, the run carries on; with the same code
it parks again, and neither spins nor grows. Method: one agent's name with two bodies, on one store.
"""

import asyncio
from typing import Any

import holdfast as hf
from holdfast.stores.memory import MemoryStore


@hf.step
async def first(n: int) -> int:
    return n + 1


@hf.step
async def second(n: int) -> int:
    return n * 2


def versions() -> tuple[Any, Any]:
    @hf.agent(name="sum")
    async def original(n: int) -> int:
        total = await first(n)
        await hf.receive("go", int)
        return total

    @hf.agent(name="sum")
    async def changed(n: int) -> int:
        total = await second(n)
        await hf.receive("go", int)
        return total

    return original, changed


async def work(store: MemoryStore, agent: Any) -> None:
    async with hf.App(store, agents=[agent]) as app:
        await app.worker(linger_s=0).run(until_idle=True)


def test_a_worker_with_the_mended_code_carries_a_diverged_run_on():
    original, changed = versions()

    async def main() -> None:
        store = MemoryStore()
        async with hf.App(store, agents=[original]) as app:
            run = await app.client.start(original, 1, id="r")
            await work(store, original)
            assert (await app.client.row(run)).status == "waiting"
            await app.client.message(run, 1, topic="go")
            await work(store, changed)
            assert (await app.client.row(run)).status == "diverged"

            length = (await app.client.row(run)).seq
            await work(store, changed)
            assert (await app.client.row(run)).seq == length, "nothing new is recorded"

            await work(store, original)
            assert await app.client.result(run) == 2

    asyncio.run(main())
