"""Hints that something has changed: LISTEN and NOTIFY, with a poll behind them.

A store tells the others after it has committed, never inside the transaction (that would make
commits wait for each other), many changes by one word, and not its own again. Nothing rests on a
hint: when the listening connection is lost, or there is none because a pooler would give it to
others, nobody is told, and whoever waits looks for himself when his time is up.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

import psycopg
from psycopg import AsyncConnection

from holdfast.errors import HoldfastError
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import drive, single
from holdfast.stores.postgres.link import Link, Unknown, Withdrawn, backoff_s
from holdfast.stores.postgres.server import NotSent, Server

__all__ = ["News"]

SOON_S, LATER_S = 0.002, 0.05
"""How long to gather changes before the others are told: of what may make runs ready, and of all
else."""


class News:
    """What one store hears of the others' changes and tells of its own."""

    def __init__(self, server: Server, link: Link, name: str) -> None:
        """Know how to listen and to tell.

        Args:
            server: Whose news.
            link: Over which to tell.
            name: Who tells, so that it does not listen to itself.
        """
        self._server = server
        self._link = link
        self._name = name
        self._told = [False, False]
        """Whether anything happened, and whether anything that may have made a run ready."""
        self._waiting: tuple[set[asyncio.Event], set[asyncio.Event]] = (set(), set())
        self._pending: bool | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: AsyncConnection | None = None
        self._closed = False

    async def changed(self, timeout_s: float, *, ready: bool) -> None:
        """Wait as ``Store.changed`` does."""
        deaf = self._closed or self._server.pooled
        if not self._tasks and self._listening is None and not deaf:
            self._spawn(self._listen())
        if not self._told[ready]:
            told = asyncio.Event()
            self._waiting[ready].add(told)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await told.wait()
            finally:
                self._waiting[ready].discard(told)
        self._told[ready] = False

    def tell(self, *, ready: bool) -> None:
        """Tell those who wait here at once, and others soon."""
        self._tell_here(ready=ready)
        if self._closed or (self._pending is not None and self._pending >= ready):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._pending = ready
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SOON_S if ready else LATER_S, self._tell_others)

    async def close(self) -> None:
        """Tell what is pending and stop listening."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._pending is not None:
            self._tell_others()
        self._deafen()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await _hang_up(self._listening)

    def _tell_here(self, *, ready: bool) -> None:
        for kind in (False, True)[: 1 + ready]:
            self._told[kind] = True
            for told in self._waiting[kind]:
                told.set()

    def _tell_others(self) -> None:
        word = f"{'ready' if self._pending else 'news'} {self._name}"
        self._pending = self._timer = None
        self._spawn(self._send(word))

    async def _send(self, word: str) -> None:
        with suppress(NotSent, Withdrawn, Unknown, HoldfastError, psycopg.Error):  # a hint
            await self._link.run(lambda c: drive(c, single(sql.NEWS, word)))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        """Connect and listen; tried again until it goes through."""
        attempt = 0
        while not self._closed:
            attempt += 1
            connection = None
            try:
                connection = await self._server.connect()
                await connection.execute("LISTEN holdfast")
            except (NotSent, HoldfastError, psycopg.Error):
                await _hang_up(connection)
                await asyncio.sleep(backoff_s(attempt))
                continue
            self._listening = connection
            loop = asyncio.get_running_loop()
            loop.add_reader(connection.pgconn.socket, self._hear)
            self._tell_here(ready=True)  # of whatever happened before
            return

    def _hear(self) -> None:
        assert self._listening is not None
        pgconn = self._listening.pgconn
        try:
            pgconn.consume_input()
            while (notice := pgconn.notifies()) is not None:
                word, _, name = notice.extra.decode().partition(" ")
                if name != self._name:
                    self._tell_here(ready=word == "ready")
        except psycopg.Error:
            self._deafen()
            lost, self._listening = self._listening, None
            self._spawn(_hang_up(lost))
            self._spawn(self._listen())

    def _deafen(self) -> None:
        if self._listening is not None:
            with suppress(psycopg.Error):
                asyncio.get_running_loop().remove_reader(self._listening.pgconn.socket)


async def _hang_up(connection: AsyncConnection | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error):
            await connection.close()
