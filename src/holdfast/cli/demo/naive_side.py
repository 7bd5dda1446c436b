"""The plain loop, killed where the desk on holdfast is killed, and started again each time.

Two processes share its tickets, as two workers share the other desk's.

Invariant: it is never killed more often than there are ambushes, nor elsewhere.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from holdfast.cli.demo.accounts import Side
from holdfast.cli.demo.ambushes import Ambush
from holdfast.cli.demo.ledger import Deed
from holdfast.cli.demo.servers import ProcessError, ShopOffice
from holdfast.cli.demo.tickets import Ticket, write_messages

__all__ = ["NaiveSide"]

LANES = 2  # as many processes as the other desk has workers
STARTS_MAX = 500
GONE_S = 2.0


class NaiveSide:
    """The plain tool-calling loop.

    Args:
        folder: Where it keeps what it has done.
        tickets: The tickets.
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
        self._office = office
        self._ambushes = ambushes
        self._lanes = [
            _Lane(folder / f"lane{number}", tickets[number::LANES], shop, model)
            for number in range(min(LANES, len(tickets)))
        ]
        self._environment = dict(environment)
        self._log = log

    async def work(self) -> None:
        """Run the loops, killed again and again, until they have no ticket left.

        Raises:
            ProcessError: one ends badly by itself each time.
        """
        begun = time.monotonic()
        holds = {await self._office.arm(ambush): ambush for ambush in self._ambushes}
        hunt = asyncio.create_task(self._hunt(holds))
        try:
            async with asyncio.TaskGroup() as tasks:
                for lane in self._lanes:
                    tasks.create_task(self._work(lane))
        finally:
            hunt.cancel()
            for lane in self._lanes:
                lane.kill()
        self._look()
        self.side.seconds = time.monotonic() - begun

    def notes(self) -> list[Deed]:
        """Return the notes that were kept, one JSON object a line."""
        return [note for lane in self._lanes for note in lane.notes()]

    async def _work(self, lane: "_Lane") -> None:
        for _ in range(STARTS_MAX):
            if await lane.run(self._environment, self._log) == 0:
                return
        raise ProcessError(f"the plain loop was started {STARTS_MAX} times to no end")

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
        lane = next(lane for lane in self._lanes if ambush.ticket in lane.tickets)
        if ambush.then != "pause" and lane.kill():  # nobody would take over what is paused
            self.side.kills += 1
            struck = self.side.killed
            struck[ambush.ticket] = struck.get(ambush.ticket, 0) + 1
            if ambush.then == "kill":
                self.side.kills_in_window += await self._office.is_gone(held["n"], GONE_S)

    def _look(self) -> None:
        """See which tickets are believed to be done."""
        self.side.finished = {ticket for lane in self._lanes for ticket in lane.finished()}


class _Lane:
    """One loop and its share of the tickets."""

    def __init__(self, folder: Path, tickets: Sequence[Ticket], shop: str, model: str) -> None:
        folder.mkdir()
        write_messages(folder / "tickets.json", tickets)
        self.tickets = {ticket.id for ticket in tickets}
        self._done = folder / "done"
        self._process: asyncio.subprocess.Process | None = None
        self._command = (
            *(sys.executable, "-m", "holdfast.cli.demo.naive", "--shop", shop, "--model", model),
            *("--tickets", str(folder / "tickets.json"), "--done", str(self._done)),
        )

    async def run(self, environment: Mapping[str, str], log: IO[bytes]) -> int:
        """Start the process and return its exit code when it has ended."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
            env=environment,
            process_group=0,  # Ctrl-C is for the supervisor alone
        )
        return await self._process.wait()

    def kill(self) -> bool:
        """Kill the process, unless it has ended."""
        if self._process is None or self._process.returncode is not None:
            return False
        self._process.send_signal(signal.SIGKILL)
        return True

    def finished(self) -> list[str]:
        """Return the tickets that it believes to be done."""
        return self._done.read_text("utf-8").split() if self._done.exists() else []

    def notes(self) -> list[Deed]:
        """Return the notes that it keeps."""
        path = self._done.with_name(f"{self._done.name}.notes")
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [Deed(n["kind"], n["order"], n["details"]) for n in map(json.loads, lines)]
