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
