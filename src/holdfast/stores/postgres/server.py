"""Where a store is, and how to connect to it.

A URL may name several hosts. One of them is the primary, and which one changes: a primary that was
given up may still be there, stopped for a while or cut off from its standbys. It takes connections
and says that it may be written to; its commits hang, since no standby confirms them. So a lost
connection is followed by one to the next host of the URL; and whoever has seen a *timeline*, which
each promotion raises, returns to no server of an older one.

A pooler between us and the server may give each transaction another session. It shows by the number
of the server's process, which is not the one that greeted us. Then statements are not prepared
beforehand (they would stand in one session and be asked of another), and ``news.py`` does not
listen.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection, conninfo, pq

from holdfast.errors import StoreRefused, UsageError
from holdfast.stores.postgres.values import adapt_values

__all__ = ["FOR_GOOD", "LOCK_S", "NotSent", "Server", "at_most", "hide", "shut"]

_FORM = "postgresql://USER@HOST:PORT/DATABASE"
SERVER_LEAST = 130_000
CONNECT_S = 5
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

_TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint"
_POOLER = "unsupported startup parameter"

FOR_GOOD = {
    "28000": "the server does not let this user in",
    "28P01": "the password is wrong",
    "3D000": "there is no such database",
    "42501": "the user has not the rights",
    "42P01": "tables of the store are missing",
    "42703": "a table of the store has other columns",
    "3F000": "the schema is missing",
}


class NotSent(Exception):  # noqa: N818 - it states a fact
    """There is no connection, so nothing was sent."""


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
        settings = dict(_SETTINGS)
        if read_only:
            settings["default_transaction_read_only"] = "on"
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        try:
            given = conninfo.conninfo_to_dict(url)
            whole: dict[str, Any] = _DEFAULTS | given
            if not read_only:
                whole.setdefault("target_session_attrs", "read-write")
            whole["options"] = f"{options} {given.get('options') or ''}".strip()
            self._hosts = _each_host(whole)
        except (psycopg.Error, ValueError) as error:
            raise UsageError(f"store {hide(url)!r}: {str(error).strip()}. Hint: {_FORM}") from None
        self._first = 0
        """The host to try first: the one that answered last, or after a loss the one behind it."""
        self._timeline = 0
        """The highest that was seen, where there are several hosts."""
        self.url = hide(url)
        self.read_only = read_only
        self.generation = 0
        self.pooled = False
        """Whether the last connection went through a pooler."""

    async def connect(self) -> AsyncConnection:
        """Open a connection.

        Raises:
            NotSent: it cannot be opened now.
            StoreRefused: nor ever, as things are.
        """
        errors: list[Exception] = []
        for n in self._order():
            try:
                connection = await _Connection.connect(self._hosts[n], autocommit=True)
                with _welcoming(connection, self.url):
                    cursor = await connection.execute(self._about.encode())
                    self._admit(n, connection, await cursor.fetchone())
            except (psycopg.Error, NotSent) as error:
                errors.append(error)
                continue
            adapt_values(connection)
            return connection
        raise self._refusal(errors) from errors[-1]

    def connect_sync(self) -> Connection:
        """Open a connection for a thread that waits; raises as ``connect`` does."""
        errors: list[Exception] = []
        for n in self._order():
            try:
                connection = Connection.connect(self._hosts[n], autocommit=False)
                with _welcoming(connection, self.url):
                    cursor = connection.execute(self._about.encode())
                    self._admit(n, connection, cursor.fetchone())
                    connection.rollback()
            except (psycopg.Error, NotSent) as error:
                errors.append(error)
                continue
            return connection
        raise self._refusal(errors) from errors[-1]

    def lost(self) -> None:
        """Have every link open a new connection before it goes on, to the next host if it can."""
        self.generation += 1
        self._first += 1

    def _order(self) -> list[int]:
        return [(self._first + n) % len(self._hosts) for n in range(len(self._hosts))]

    @property
    def _about(self) -> str:
        several = len(self._hosts) > 1 and not self.read_only
        return f"SELECT pg_backend_pid(), {_TIMELINE if several else 0}"

    def _admit(
        self, n: int, connection: AsyncConnection | Connection, about: tuple[Any, ...] | None
    ) -> None:
        """Take what a new connection says of its server.

        Raises:
            NotSent: another server has been promoted in its place.
        """
        assert about is not None
        pid, timeline = about
        if timeline < self._timeline:
            raise NotSent(
                f"{connection.info.host}: the server is on timeline {timeline}, and another has"
                f" been promoted since: {self._timeline}"
            )
        self._first, self._timeline = n, timeline
        self.pooled = pid != connection.info.backend_pid
        if self.pooled:
            connection.prepare_threshold = None

    def _refusal(self, errors: list[Exception]) -> Exception:
        """Return what it means that no host could be connected to."""
        texts = [" ".join(str(error).split()) for error in errors]
        text = "; ".join(dict.fromkeys(texts))
        states = [
            (isinstance(error, psycopg.Error) and error.sqlstate) or _state_of(said)
            for error, said in zip(errors, texts, strict=True)
        ]
        if _POOLER in text:
            return StoreRefused(
                f"store {self.url}: the pooler in between does not pass 'options' on: {text}."
                " Hint: let it ignore them, as ignore_startup_parameters = options in PgBouncer."
            )
        if all(state in FOR_GOOD for state in states):
            return StoreRefused(
                f"store {self.url}: {FOR_GOOD[states[0]]}: {text}. Hint: check user, password and"
                " database."
            )
        return NotSent(text)


def shut(connection: pq.abc.PGconn) -> None:
    """Shut a connection's socket, so that whoever waits for it learns that it is over."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.socket)) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)


@contextmanager
def at_most(connection: pq.abc.PGconn, seconds: float) -> Iterator[None]:
    """Shut a connection's socket if the block takes longer."""
    alarm = Timer(seconds, shut, [connection])
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def hide(url: str) -> str:
    """Return a URL without its password."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return "postgresql://…"
    password = given.get("password")
    return url.replace(f":{password}@", "@").replace(str(password), "…") if password else url


@contextmanager
def _welcoming(connection: AsyncConnection | Connection, url: str) -> Iterator[None]:
    """Look over a new connection; close it if it will not do, or says nothing."""
    try:
        _check_server(connection.info.server_version, url)
        with at_most(connection.pgconn, CONNECT_S):
            yield
    except BaseException:
        connection.pgconn.finish()
        raise


def _check_server(number: int, url: str) -> None:
    """Refuse a server that is too old; ``number`` is such as 150004 for 15.4.

    Raises:
        StoreRefused: it is.
    """
    if number < SERVER_LEAST:
        raise StoreRefused(
            f"store {url}: the server is PostgreSQL {number // 10_000}.{number % 10_000}; holdfast"
            f" needs {SERVER_LEAST // 10_000} or newer. Hint: upgrade the server.",
            found=number,
        )


def _each_host(whole: dict[str, Any]) -> list[str]:
    """Return how to connect to each of the hosts that are named.

    Raises:
        ValueError: as many ports as hosts were expected, or one.
    """
    lists = {
        name: str(whole[name]).split(",")
        for name in ("host", "hostaddr", "port")
        if whole.get(name)
    }
    count = max((len(values) for values in lists.values()), default=1)
    for name, values in lists.items():
        if len(values) not in (1, count):
            raise ValueError(f"{len(values)} times {name}, expected 1 or {count}")
    for port in lists.get("port", ()):
        int(port or 0)
    return [
        conninfo.make_conninfo(
            **whole | {name: values[n % len(values)] for name, values in lists.items()}
        )
        for n in range(count)
    ]


def _state_of(text: str) -> str:
    """Return the state of an error that libpq reports without one."""
    if "no password supplied" in text or "password authentication failed" in text:
        return "28P01"
    if "does not exist" in text and "database" in text:
        return "3D000"
    if "role" in text and "does not exist" in text:
        return "28000"
    return "28000" if "no pg_hba.conf entry" in text else ""
