"""What the body of a ``transactional`` step may do: anything with the user's own tables.

A body is sync code, so it runs in a thread, on a connection of its own. Its statements are written
as for SQLite: ``?`` and ``:name`` stand for values (and ``??`` for an operator that is a question
mark). What would end the transaction, change the session or touch the schema ``holdfast`` is
refused before it is sent, so a refused statement leaves the transaction as it was.

What this cannot see is SQL that is put together on the server, in a function or a DO block; rights
in the database are the way to keep such code out. Each statement reads what is committed by then
(READ COMMITTED, PostgreSQL's own default); a body that reads, reckons and writes locks what it
read (``SELECT … FOR UPDATE``).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import Connection, pq
from psycopg.errors import Diagnostic

from holdfast.errors import HoldfastError, UsageError
from holdfast.ports import Append, Transaction
from holdfast.stores.fencing import check_place
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.batch import Batch, Chain, fault
from holdfast.stores.postgres.flow import Flow, Row, drive_inside, single
from holdfast.stores.postgres.link import (
    OPERATION_S,
    Withdrawn,
    judge,
    meaning,
)
from holdfast.stores.postgres.payloads import Chunks
from holdfast.stores.postgres.server import NotSent, Server, at_most
from holdfast.stores.postgres.values import Texts

__all__ = ["Transactor", "translate"]

_TOKENS = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|/\*.*?\*/)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<cast>::|:=)
    | (?P<named>:[A-Za-z_]\w*)
    | (?P<mark>\?\?|\?)
    | (?P<word>[A-Za-z_\u0080-\uffff][\w$]*)
    | (?P<end>;)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_REFUSED = {
    **dict.fromkeys(
        ("begin", "start", "commit", "end", "rollback", "abort", "prepare"),
        "begin or end a transaction",
    ),
    **dict.fromkeys(("savepoint", "release"), "set savepoints"),
    **dict.fromkeys(("attach", "detach"), "attach a database"),
    **dict.fromkeys(("set", "reset", "discard", "listen", "unlisten"), "change the session"),
    "copy": "copy",
}


class Transactor:
    """Runs bodies, one at a time, each in a transaction with the change that it returns."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Connection | None = None
        self._generation = server.generation

    def run(
        self, run: str, epoch: int, expected_seq: int, body: Callable[[Transaction], Append]
    ) -> Append | None:
        """Run a body and commit; in a thread that may wait.

        Returns the change if nobody can tell whether it was committed, None if it was.

        Raises:
            Fenced, Conflict, StoreUnavailable: as ``Store.transact`` does.
            Exception: whatever the body raises.
        """
        connection = self._connected()
        warnings: list[str] = []
        try:
            self._check(connection, run, epoch, expected_seq)
            change = self._run_body(connection, body)
            assert (change.run, change.epoch, change.expected_seq) == (run, epoch, expected_seq)
            assert not (wrong := fault(change)), wrong
            self._apply(connection, change)
        except BaseException:
            self._undo(connection)
            raise

        def note(said: Diagnostic) -> None:
            warnings.append(said.message_primary or "")

        connection.add_notice_handler(note)
        try:
            with at_most(connection.pgconn, OPERATION_S):
                connection.commit()
        except psycopg.Error as error:
            if not connection.closed and not connection.broken and not warnings:
                self._undo(connection)
                raise self._meaning(error) from error
            self.close()
            return change
        finally:
            connection.remove_notice_handler(note)
        return change if warnings else None

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _connected(self) -> Connection:
        stale = self._generation != self._server.generation
        if self._connection is not None and stale:
            self.close()
        if self._connection is None or self._connection.closed:
            self._generation = self._server.generation
            try:
                self._connection = self._server.connect_sync()
            except (NotSent, HoldfastError) as error:
                raise meaning(error, self._server.url) from error
        return self._connection

    def _check(self, connection: Connection, run: str, epoch: int, expected_seq: int) -> None:
        """Lock the run's row and refuse a change of a run that has moved on."""
        try:
            with at_most(connection.pgconn, OPERATION_S):
                (found,) = drive_inside(connection, _locked(run))
        except psycopg.Error as error:
            raise self._meaning(error) from error
        place = found[0][1:3] if found else None
        check_place(run, epoch, expected_seq, place)

    def _run_body(self, connection: Connection, body: Callable[[Transaction], Append]) -> Append:
        transaction = UserTransaction(connection)
        try:
            change = body(transaction)
        except psycopg.Error as error:
            if connection.closed or connection.broken:
                raise self._meaning(error) from error
            raise  # the body's own
        finally:
            transaction.over = True
        if connection.info.transaction_status != pq.TransactionStatus.INTRANS:
            raise UsageError(
                "A statement of the body has failed, which ends the transaction on PostgreSQL: all"
                " of it is undone. Hint: INSERT … ON CONFLICT DO NOTHING does not fail."
            )
        return change

    def _apply(self, connection: Connection, change: Append) -> None:
        batch = Batch([Chain([change])])
        try:
            with at_most(connection.pgconn, OPERATION_S):
                drive_inside(connection, single(sql.USING_CHUNKS))  # no sweep until the commit
                (answer,) = drive_inside(connection, batch.flow(Chunks()))
        except psycopg.Error as error:
            raise self._meaning(error) from error
        if isinstance(answer, Exception):
            raise answer

    def _undo(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except psycopg.Error:
            self.close()

    def _meaning(self, error: psycopg.Error) -> Exception:
        judged = judge(error, self._server.url)
        if isinstance(judged, psycopg.OperationalError):
            judged = Withdrawn(str(judged))
        return judged if isinstance(judged, psycopg.Error) else meaning(judged, self._server.url)


def _locked(run: str) -> Flow[list[list[Row]]]:
    return (yield [(sql.LOCK_RUNS, (Texts([run]),))])


class UserTransaction:
    """Keeps the contract of ``holdfast.ports.Transaction``, until it is ``over``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.over = False

    def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        if self.over:
            raise UsageError(f"The transaction is over, this came too late: {sql}")
        statement = translate(sql, params)
        cursor = self._connection.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []


def translate(statement: str, params: Sequence[Any] | Mapping[str, Any]) -> str:
    """Return a body's statement as psycopg takes it.

    Raises:
        UsageError: a body may not do this, or it is more than one statement.
    """
    named = isinstance(params, Mapping)
    parts: list[str] = []
    first, last_name, ended = True, "", False
    for token in _TOKENS.finditer(statement):
        kind, text = token.lastgroup, token.group()
        kind = "string" if kind == "tag" else kind
        if kind == "space":
            parts.append(text.replace("%", "%%"))
            continue
        if ended:
            raise UsageError(f"A body gives one statement at a time, this is more: {statement}")
        ended = kind == "end"
        name = _name(kind, text)
        if first and name in _REFUSED:
            raise _refusal(_REFUSED[name], statement)
        if name == "set_config" or (last_name == "holdfast" and text == "."):
            what = "change the session" if name else "touch the schema 'holdfast'"
            raise _refusal(what, statement)
        first, last_name = False, name
        if kind == "mark" and not named and params:
            parts.append("?" if text == "??" else "%s")
        elif kind == "named" and named:
            parts.append(f"%({text[1:]})s")
        else:
            parts.append(text.replace("%", "%%"))
    return "".join(parts)


def _name(kind: str | None, text: str) -> str:
    """Return the name that a token stands for, empty if it is none."""
    if kind == "word":
        return text.lower()
    return text[1:-1].replace('""', '"') if kind == "quoted" else ""


def _refusal(what: str, statement: str) -> UsageError:
    return UsageError(
        f"A body may not {what}: {statement}\n"
        "Hint: its statements run inside the log's own transaction; use tables of your own."
    )
