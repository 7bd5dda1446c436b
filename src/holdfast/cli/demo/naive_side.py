"""The plain loop, killed where the desk on holdfast is killed, and started again each time.

Invariant: it is never killed more often than there are ambushes, nor elsewhere.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from holdfast.cli.demo.accounts import Side
from holdfast.cli.demo.ambushes import Ambush
from holdfast.cli.demo.ledger import Deed
from holdfast.cli.demo.servers import ShopOffice
from holdfast.cli.demo.tickets import Ticket, write_messages

__all__ = ["NaiveSide"]

STARTS_MAX = 500
GONE_S = 2.0


class NaiveSide:
    """The plain tool-calling loop.

    Args:
        folder: Where it keeps what it has done.
        tickets: The tickets, worked on one after the other.
        ambushes: Where to strike.
        office: The back office of its own shop.
        shop, model: The URLs that it is given.
        environment: More for its environment.
        log: Where its stderr goes.
    """

    def __init__(
        self,
        folder: Path,
        tickets: Sequence[Ticket],
        ambushes: Sequence[Ambush],
        office: ShopOffice,
        *,
        shop: str,
        model: str,
        environment: Mapping[str, str],
        log: IO[bytes],
    ) -> None:
        self.side = Side()
        self._folder = folder
        self._tickets = tickets
        self._ambushes = ambushes
        self._office = office
        self._done = folder / "done"
        self._environment = dict(environment)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._command = (
            *(sys.executable, "-m", "holdfast.cli.demo.naive", "--shop", shop, "--model", model),
            *("--tickets", str(folder / "tickets.json"), "--done", str(self._done)),
        )

    async def work(self) -> None:
        """Run the loop, killed again and again, until it has no ticket left.

        Raises:
            RuntimeError: it ends badly by itself each time.
        """
        begun = time.monotonic()
        write_messages(self._folder / "tickets.json", self._tickets)
        holds = {await self._office.arm(ambush): ambush for ambush in self._ambushes}
        hunt = asyncio.create_task(self._hunt(holds))
        try:
            for _ in range(STARTS_MAX):
                self._process = await self._start()
                ended = await self._process.wait()
                self._look()
                if ended == 0:
                    break
            else:
                raise RuntimeError(f"the plain loop was started {STARTS_MAX} times to no end")
        finally:
            hunt.cancel()
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
        self.side.seconds = time.monotonic() - begun

    def notes(self) -> list[Deed]:
        """Return the notes that it keeps, one JSON object a line."""
        path = self._done.with_name(f"{self._done.name}.notes")
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [Deed(n["kind"], n["order"], n["details"]) for n in map(json.loads, lines)]

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,
        )

    async def _hunt(self, holds: Mapping[int, Ambush]) -> None:
        seen = 0
        while True:
            for held in await self._office.held(after=seen, wait_s=0.3):
                seen = held["n"]
                await self._strike(holds[held["hold"]], held)
            self._look()

    async def _strike(self, ambush: Ambush, held: Mapping[str, Any]) -> None:
        if ambush.then != "kill":
            await self._office.release(held["hold"])
            await asyncio.sleep(ambush.delay_s)
        if ambush.then == "pause":
            return  # nobody would take over from it
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            self.side.kills += 1
            struck = self.side.killed
            struck[ambush.ticket] = struck.get(ambush.ticket, 0) + 1
            if ambush.then == "kill":
                self.side.kills_in_window += await self._office.is_gone(held["n"], GONE_S)

    def _look(self) -> None:
        """See which tickets it believes to be done."""
        if self._done.exists():
            self.side.finished = set(self._done.read_text("utf-8").split())
