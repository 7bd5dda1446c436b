"""Prints in which order asyncio's sets of tasks are gone through; run by ``test_loop.py``.

The number given is how many objects are made beforehand, so that everything lies elsewhere.
"""

import asyncio
import sys

from holdfast.core.loop import TurnLoop, running

SEEN = []


async def work(n):
    SEEN.append(n)
    return n


JUNK = [work(n) for n in range(int(sys.argv[1]))]


async def main():
    tasks = [asyncio.create_task(work(n)) for n in range(20)]
    done, _ = await asyncio.wait(tasks)
    SEEN.append([task.result() for task in done])
    futures = {asyncio.get_running_loop().create_future() for _ in range(20)}
    numbers = {future: n for n, future in enumerate(sorted(futures, key=hash))}
    SEEN.append([numbers[future] for future in futures])
    SEEN.extend([await first for first in asyncio.as_completed([work(n) for n in range(20)])])


loop = TurnLoop()
with running(loop):
    task = loop.create_task(main())
    loop.run_ready()
task.result()
for coroutine in JUNK:
    coroutine.close()
sys.stdout.write(f"{SEEN}\n")
