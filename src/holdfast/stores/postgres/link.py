"""Connections, and what becomes of them.

A *link* is one connection, opened when it is first needed and opened anew when it was lost, whose
operations run one after the other. All links of a store belong to one *server*: when one of them is
lost, the others are given up too, so that no two of them speak with different primaries.

What was learned by losing writes, each a rule here:

- Nothing is ever cancelled. A cancelled COMMIT may have been made, and the answer says otherwise.
  An operation that takes too long has its socket shut, and nobody knows what came of it:
  ``Unknown``.
- A warning about a commit means that it stands on this server alone: ``Unknown`` too.
- Whoever waits for an operation may be cancelled; the operation goes on.
"""

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection, conninfo, pq
from psycopg.errors import Diagnostic

from holdfast.errors import HoldfastError, StoreRefused, StoreUnavailable, UsageError
from holdfast.stores.postgres.values import adapt_values

__all__ = [
    "Link",
    "NotSent",
    "Server",
    "Unknown",
    "Withdrawn",
    "backoff_s",
    "judge",
    "meaning",
    "shut",
]

T = TypeVar("T")

_FORM = "postgresql://USER@HOST:PORT/DATABASE"
CONNECT_S = 5
OPERATION_S = 30.0
"""Longer than this no answer of the server's is waited for."""
LOCK_S = 10
_SETTINGS = {
    "lock_timeout": f"{LOCK_S}s",
    "idle_in_transaction_session_timeout": "30s",
    "plan_cache_mode": "force_generic_plan",
    "client_min_messages": "warning",
}
_DEFAULTS = {
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "holdfast",
}

_PASSING = {
    "25006": "the server is read-only; it may be a standby",
    "40001": "it would not have been serializable",
    "40P01": "it was in a deadlock",
    "53000": "the server lacks resources",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has too many connections",
    "55P03": f"a lock was held by somebody else for {LOCK_S} s",
    "57014": "the server ended the statement (statement_timeout)",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed",
    "57P03": "the server is starting, or it is a standby that is not ready",
    "57P05": "the server has closed an idle connection",
}
_FOR_GOOD = {
    "28000": "the server does not let this user in",
    "28P01": "the password is wrong",
    "3D000": "there is no such database",
    "42501": "the user has not the rights",
    "42P01": "tables of the store are missing",
    "42703": "a table of the store has other columns",
    "3F000": "the schema is missing",
}


class Unknown(Exception):  # noqa: N818 - it states a fact
    """Something was sent, and nobody can tell whether it was done."""


class NotSent(Exception):  # noqa: N818 - it states a fact
    """There is no connection, so nothing was sent."""


class Withdrawn(Exception):  # noqa: N818 - it states a fact
    """The server has undone the transaction; the same may go through later."""


class _Connection(AsyncConnection):
    """A connection that never asks a server to cancel."""

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ARG002, ASYNC109 - psycopg's signature
        shut(self.pgconn)

    def cancel(self) -> None:
        shut(self.pgconn)


class Server:
    """Where a store is: how to reach it, and which generation of connections is the present one."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Understand a URL.

        Raises:
            UsageError: it is not one of PostgreSQL's.
        """
        try:
            given = conninfo.conninfo_to_dict(url)
            for port in str(given.get("port") or 0).split(","):
                int(port or 0)
        except (psycopg.Error, ValueError) as error:
            raise UsageError(f"store {hide(url)!r}: {str(error).strip()}. Hint: {_FORM}") from None
        settings = dict(_SETTINGS)
        if read_only:
            settings["default_transaction_read_only"] = "on"
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        whole: dict[str, Any] = _DEFAULTS | given
        if not read_only:
            whole.setdefault("target_session_attrs", "read-write")
        whole["options"] = f"{options} {given.get('options') or ''}".strip()
        self._conninfo = conninfo.make_conninfo(**whole)
        self.url = hide(url)
        self.read_only = read_only
        self.generation = 0

    async def connect(self) -> AsyncConnection:
        """Open a connection.

        Raises:
            NotSent: it cannot be opened now.
            StoreRefused: nor ever, as things are.
        """
        try:
            connection = await _Connection.connect(self._conninfo, autocommit=True)
        except psycopg.Error as error:
            raise self._refusal(error) from error
        adapt_values(connection)
        return connection

    def connect_sync(self) -> Connection:
        """Open a connection for a thread that waits; raises as ``connect`` does."""
        try:
            return Connection.connect(self._conninfo, autocommit=False)
        except psycopg.Error as error:
            raise self._refusal(error) from error

    def lost(self) -> None:
        """Have every link open a new connection before it goes on."""
        self.generation += 1

    def _refusal(self, error: psycopg.Error) -> Exception:
        text = " ".join(str(error).split())
        state = error.sqlstate or _state_of(text)
        if state in _FOR_GOOD:
            return StoreRefused(
                f"store {self.url}: {_FOR_GOOD[state]}: {text}. Hint: check user, password and"
                " database."
            )
        return NotSent(text)


class Link:
    """One connection of a store."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: AsyncConnection | None = None
        self._generation = -1
        self._turn = asyncio.Lock()
        self._warnings: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(
        self, operation: Callable[[AsyncConnection], Awaitable[T]], *, time_s: float = OPERATION_S
    ) -> T:
        """Carry out an operation when it is its turn.

        Raises:
            NotSent, Withdrawn: nothing was done.
            Unknown: nobody can tell.
            StoreRefused: it cannot be done as things are.
            psycopg.Error: the operation's own mistake; nothing was done.
        """
        task = asyncio.get_running_loop().create_task(self._run(operation, time_s))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finish what was begun and close the connection."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have left

    async def _run(self, operation: Callable[[AsyncConnection], Awaitable[T]], time_s: float) -> T:
        async with self._turn:
            connection = await self._connected()
            self._warnings.clear()
            alarm = asyncio.get_running_loop().call_later(time_s, shut, connection.pgconn)
            try:
                result = await operation(connection)
            except psycopg.Error as error:
                raise self._judge(connection, error) from error
            finally:
                alarm.cancel()
            if self._warnings:
                raise Unknown("; ".join(self._warnings))
            return result

    async def _connected(self) -> AsyncConnection:
        connection = self._connection
        fresh = self._generation == self._server.generation
        if connection is not None and fresh and not connection.closed:
            return connection
        if connection is not None:
            self._connection = None
            with suppress(psycopg.Error):
                await connection.close()
        generation = self._server.generation
        connection = await self._server.connect()
        connection.add_notice_handler(self._noticed)
        self._connection, self._generation = connection, generation
        return connection

    def _noticed(self, said: Diagnostic) -> None:
        if said.severity_nonlocalized != "NOTICE":
            self._warnings.append(f"{said.message_primary} {said.message_detail or ''}".strip())

    def _judge(self, connection: AsyncConnection, error: psycopg.Error) -> Exception:
        if connection.closed or connection.broken:
            if self._generation == self._server.generation:
                self._server.lost()
            return Unknown(" ".join(str(error).split()))
        if self._warnings:
            return Unknown("; ".join(self._warnings))
        if error.sqlstate == "25006":
            self._server.lost()  # the primary is another one by now
        return judge(error, self._server.url)


def judge(error: psycopg.Error, url: str) -> Exception:
    """Return what an error says that came over a connection which still stands."""
    state = error.sqlstate or ""
    text = " ".join(str(error).split())
    if state in _PASSING:
        return Withdrawn(f"{_PASSING[state]} ({text})")
    if state in _FOR_GOOD:
        return StoreRefused(
            f"store {url}: {_FOR_GOOD[state]}: {text}. Hint: the owner of the schema 'holdfast' may"
            " GRANT them, or holdfast migrate bring it up to date."
        )
    return error


def meaning(error: Exception, url: str) -> HoldfastError:
    """Return what those who asked are told."""
    match error:
        case HoldfastError():
            return error
        case Unknown():
            return StoreUnavailable(
                f"store {url}: {error}. Whether it was written is not known."
                " Hint: the log will tell, once the store is there again."
            )
        case _:
            return StoreUnavailable(f"store {url}: {error}. Nothing was written.")


def backoff_s(attempt: int) -> float:
    """Return how long to wait after a failed attempt, in seconds; 1 is the first."""
    return random.uniform(0.5, 1) * min(0.05 * 2.0 ** min(attempt, 10), 1.0)  # noqa: S311 - jitter


def shut(connection: pq.abc.PGconn) -> None:
    """Shut a connection's socket, so that whoever waits for it learns that it is over."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.socket)) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)


def hide(url: str) -> str:
    """Return a URL without its password."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return "postgresql://…"
    password = given.get("password")
    return url.replace(f":{password}@", "@").replace(str(password), "…") if password else url


def _state_of(text: str) -> str:
    """Return the state of an error that libpq reports without one."""
    if "no password supplied" in text or "password authentication failed" in text:
        return "28P01"
    if "does not exist" in text and "database" in text:
        return "3D000"
    if "role" in text and "does not exist" in text:
        return "28000"
    return "28000" if "no pg_hba.conf entry" in text else ""
