"""A worker process for ``test_kill.py``: it works off the runs of one store.

    python kill_desk.py STORE WORLD_URL LEASE_S [--until-idle]

All effects are requests to WORLD_URL, where another process counts them. SIGTERM drains.
"""

import asyncio
import http.client
import os
import signal
import sys
from urllib.parse import urlsplit

import holdfast as hf


def ask(path: str, key: str = "") -> str:
    """Send a request to the world and return its answer."""
    connection = http.client.HTTPConnection(urlsplit(os.environ["WORLD_URL"]).netloc, timeout=60)
    headers = {"pid": str(os.getpid()), "key": key, "attempt": str(hf.attempt())}
    connection.request("POST", path, headers=headers)
    answer = connection.getresponse()
    if answer.status != http.HTTPStatus.OK:
        raise ConnectionError(f"{path}: {answer.status}")
    return answer.read().decode()


def find_payment(order: str) -> object:
    return ask(f"/find/{order}") or hf.NOT_DONE


@hf.step
def look(order: str) -> str:
    return ask(f"/look/{order}")


@hf.tool(effect="once", reconcile=find_payment)
def pay(order: str) -> str:
    return ask(f"/pay/{order}")


@hf.tool(effect="once")
def pay_blindly(order: str) -> str:
    return ask(f"/pay/{order}")


@hf.tool(effect="idempotent")
def ship(order: str) -> str:
    return ask(f"/ship/{order}", hf.idempotency_key())


@hf.agent
async def serve(order: str) -> list[str]:
    said = [await asyncio.to_thread(look, order), pay(order), ship(order)]
    await asyncio.sleep(0.05)
    return [*said, ship(f"{order}-gift")]


@hf.agent
async def blind(order: str) -> list[str]:
    return [pay_blindly(order), ship(order)]


@hf.agent
async def chain(count: int) -> int:
    for n in range(count):
        pay(f"part-{n}")
    return count


AGENTS = [serve, blind, chain]


async def main() -> None:
    store, os.environ["WORLD_URL"], lease_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
    async with hf.App(store, agents=AGENTS) as app:
        worker = app.worker(hf.WorkerSettings(lease_s=lease_s, poll_s=0.1))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
        await worker.run(until_idle="--until-idle" in sys.argv)


if __name__ == "__main__":
    asyncio.run(main())
