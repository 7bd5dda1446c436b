"""One of the processes of ``test_two_processes.py``: starts runs and works until all are done.

python two_processes.py STORE NAME RUNS
"""

import asyncio
import sys
from pathlib import Path

import holdfast as hf

EFFECTS = Path(sys.argv[4])


@hf.tool(effect="once")
def act(n: int) -> int:
    with EFFECTS.open("a") as file:
        file.write(f"{hf.run_id()} {n}\n")
    return n


@hf.agent
async def job(n: int) -> int:
    return sum(act(n + i) for i in range(5))


async def main(store: str, name: str, runs: int) -> None:
    async with hf.App(store, agents=[job]) as app, app.working():
        for n in range(runs):
            await app.client.start(job, n, id=f"{name}-{n}")
        for n in range(runs):
            assert await app.client.result(f"{name}-{n}") == 5 * n + 10
        sys.stdout.write(f"{name} done\n")


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
