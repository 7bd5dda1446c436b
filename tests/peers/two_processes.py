"""One of the processes of ``test_two_processes.py``: starts runs and works until all are done.

python two_processes.py STORE NAME RUNS
"""

import asyncio
import sys

import holdfast as hf


@hf.tool(effect="once")
async def act(n: int) -> int:
    return n


@hf.agent
async def job(n: int) -> int:
    return sum([await act(n + i) for i in range(5)])


async def main(store: str, name: str, runs: int) -> None:
    async with hf.App(store, agents=[job]) as app, app.working():
        for n in range(runs):
            await app.client.start(job, n, id=f"{name}-{n}")
        for n in range(runs):
            assert await app.client.result(f"{name}-{n}") == 5 * n + 10
        print(f"{name} done")


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
