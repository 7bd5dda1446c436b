"""The world around a desk, as the supervisor has it: two server processes and what it asks them."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import httpx2

from holdfast.cli.demo.ambushes import Ambush

__all__ = ["ProcessError", "Server", "ShopOffice", "start_model", "start_shop"]

HOLD_MS = 60_000
START_S = 20.0


class ProcessError(RuntimeError):
    """A process of the demo did not start, or ended by itself."""


class Server:
    """A server process; ``url`` is where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """End the process."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def start_shop(folder: Path, *, seed: int, tickets: int, log: IO[bytes]) -> Server:
    """Start a shop whose books are ``shop.db`` in a folder."""
    more = ("--db", str(folder / "shop.db"), "--tickets", str(tickets))
    return await _start("shop", seed, log, *more)


async def start_model(*, seed: int, log: IO[bytes]) -> Server:
    """Start a scripted model."""
    return await _start("model", seed, log)


async def _start(name: str, seed: int, log: IO[bytes], *more: str) -> Server:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"holdfast.cli.demo.{name}", "--seed", str(seed), *more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        process_group=0,  # Ctrl-C is for the supervisor, which ends what it has started
    )
    assert process.stdout is not None
    async with asyncio.timeout(START_S):
        line = await process.stdout.readline()
    if not line:
        raise ProcessError(f"the demo's {name} did not start; {log.name} says why")
    return Server(process, json.loads(line)["port"])


class ShopOffice:
    """A shop's back office: what only its own people, and the demo's supervisor, may ask."""

    def __init__(self, url: str, http: httpx2.AsyncClient) -> None:
        self._url = url
        self._http = http

    async def arm(self, ambush: Ambush) -> int:
        """Have the answer of a deed to come held back; return the hold's id."""
        body = {"kind": ambush.kind, "order": ambush.order, "hold_ms": HOLD_MS}
        hold: int = (await self._ask("POST", "/operator/hold", body))["hold"]
        return hold

    async def held(self, *, after: int = 0, wait_s: float = 0.0) -> list[dict[str, Any]]:
        """Return the held deeds numbered above ``after``, waiting for one if there is none."""
        query = f"?after={after}&wait_ms={int(wait_s * 1000)}"
        return list((await self._ask("GET", f"/operator/held{query}"))["held"])

    async def is_gone(self, number: int, within_s: float) -> bool:
        """Tell whether the client that waits for a held deed's answer is gone, within a time."""
        for _ in range(max(1, int(within_s / 0.02))):
            (hold, *_rest) = await self.held(after=number - 1)
            if hold["status"] != "waiting":
                return bool(hold["status"] == "gone")
            await asyncio.sleep(0.02)
        return False

    async def release(self, hold: int) -> None:
        """Let the answer of a held deed go."""
        await self._ask("POST", "/operator/release", {"hold": hold})

    async def emails(self, order: str) -> list[dict[str, Any]]:
        """Return what the outbox holds for an order."""
        return list((await self._ask("GET", f"/operator/emails?order={order}"))["emails"])

    async def ledger(self) -> list[dict[str, Any]]:
        """Return every deed that the shop did."""
        return list((await self._ask("GET", "/ledger"))["deeds"])

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        answer = await self._http.request(method, self._url + path, json=body)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found
