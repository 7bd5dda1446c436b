"""A proxy in front of PostgreSQL that cuts connections where it hurts: around a commit.

It understands just enough of the protocol to see which statements travel before each Sync, which is
where a transaction of a pipeline commits. A test decides for each such *round* what becomes of it:

    pass          it goes through
    before        the connection is cut, and the server never hears of the round
    after         the server commits, and the connection is cut in place of the answer
    late          the connection is cut, and the server hears of the round when the test says so
    hang          the server commits, and no answer ever comes
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

__all__ = ["CuttingProxy", "Fate"]

Fate = Literal["pass", "before", "after", "late", "hang"]

_SOCKET = ".s.PGSQL.5432"
_LENGTH = struct.Struct(">I")


class CuttingProxy:
    """Listens in a directory of its own and passes on to a server. An async context manager.

    Attributes:
        admit: Awaited before a connection is passed on.
        decide: Called with the statements of each round; returns its fate.
        fates: What was decided, other than to let a round pass.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        """Prepare a proxy.

        Args:
            folder: Where to listen; ``host=`` in a URL.
            server: The directory of the server's socket.
        """
        self.folder = folder
        self.server = server
        self.decide: Callable[[list[str]], Fate] = lambda _: "pass"
        self.admit: Callable[[], Awaitable[object]] = _at_once
        self.fates: list[Fate] = []
        self._late: list[_Line] = []
        self._listening: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_unix_server(self._serve, self.folder / _SOCKET)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self._late:
            line.hang_up()
        await asyncio.sleep(0)  # transports let go of their sockets in a callback

    async def deliver_late(self) -> None:
        """Let the server hear of the rounds that were kept, and wait until it has answered."""
        while self._late:
            await self._late.pop().deliver()

    def fate_of(self, line: "_Line", statements: list[str]) -> Fate:
        """Decide on a round and keep what is to come late."""
        fate = self.decide(statements)
        if fate != "pass":
            self.fates.append(fate)
        if fate == "late":
            self._late.append(line)
        return fate

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self.admit()
            server, to_server = await asyncio.open_unix_connection(str(self.server / _SOCKET))
        except (OSError, asyncio.CancelledError):
            to_client.close()
            return
        line = _Line(self, client, to_client, server, to_server)
        try:
            # Cancelled is how it ends; asyncio's streams would log that as an error.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await line.carry()
        finally:
            to_client.close()
            if not line.kept:
                to_server.close()


async def _at_once() -> None:
    pass


class _Line:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: CuttingProxy,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client, self._to_client = client, to_client
        self._server, self._to_server = server, to_server
        self._prepared: dict[bytes, str] = {}
        self._silent = False
        self._round_over = asyncio.Event()
        self.kept = b""
        """A round that is to come late."""

    async def carry(self) -> None:
        """Pass on all that comes, until one side has hung up or the line is cut."""
        back = asyncio.ensure_future(self._carry_back())
        forth = asyncio.ensure_future(self._carry_forth())
        try:
            await asyncio.wait({back, forth}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (back, forth):
                task.cancel()
            await asyncio.gather(back, forth, return_exceptions=True)

    async def deliver(self) -> None:
        """Send the round that was kept and wait for the end of its answer."""
        self._to_server.write(self.kept)
        while (await self._server.readexactly(1)) != b"Z":
            (size,) = _LENGTH.unpack(await self._server.readexactly(4))
            await self._server.readexactly(size - 4)
        self._to_server.close()

    def hang_up(self) -> None:
        """Drop the round that was kept."""
        self._to_server.transport.abort()

    async def _carry_back(self) -> None:
        while True:
            head = await self._server.readexactly(5)
            (size,) = _LENGTH.unpack(head[1:])
            body = await self._server.readexactly(size - 4)
            if head[:1] == b"Z":
                self._round_over.set()
            if not self._silent:
                self._to_client.write(head + body)
                await self._to_client.drain()

    async def _carry_forth(self) -> None:
        (size,) = _LENGTH.unpack(first := await self._client.readexactly(4))
        self._to_server.write(first + await self._client.readexactly(size - 4))
        pending, statements = b"", list[str]()
        while True:
            head = await self._client.readexactly(5)
            (size,) = _LENGTH.unpack(head[1:])
            body = await self._client.readexactly(size - 4)
            pending += head + body
            kind = head[:1]
            if kind == b"P":
                name, text, _ = body.split(b"\0", 2)
                self._prepared[name] = text.decode()
            elif kind == b"B":
                _, name, _ = body.split(b"\0", 2)
                statements.append(self._prepared.get(name, ""))
            elif kind == b"Q":
                statements.append(body[:-1].decode())
            if kind not in (b"S", b"Q"):
                continue
            if await self._is_cut(pending, statements):
                return
            pending, statements = b"", []

    async def _is_cut(self, pending: bytes, statements: list[str]) -> bool:
        fate = self._proxy.fate_of(self, statements)
        if fate == "late":
            self.kept = pending
        if fate in ("before", "late"):
            return True
        self._silent = fate != "pass"
        self._round_over.clear()
        self._to_server.write(pending)
        await self._to_server.drain()
        if fate == "after":
            await self._round_over.wait()
        return fate == "after"
