"""What the body of a ``transactional`` step may do: anything with the user's own tables.

SQLite asks an authorizer about every table, index, trigger and transaction that a statement names,
those behind views and triggers included. Ours says no to what would end or escape the transaction,
and to whatever has the name of an object of the store's, as a temporary table would hide it.

Invariant: while a body runs nothing of the store's can be read or written through its statements.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import apsw

from holdfast.errors import UsageError

__all__ = ["OBJECTS", "user_transaction"]

OBJECTS = frozenset(
    {
        *("run", "run_created", "run_ready", "run_begun", "run_wake", "run_held", "run_busy"),
        *("run_stuck", "pause", "queue", "rest", "subject", "subject_key", "subject_run"),
        *("event", "event_seq"),
        *("inbox", "inbox_id", "inbox_unread"),
        *("worker", "chunk"),
        *("signer", "head", "tile"),
    }
)
"""Every table and index that schema.sql names."""

_REFUSED = {
    apsw.SQLITE_TRANSACTION: "begin or end a transaction",
    apsw.SQLITE_SAVEPOINT: "set savepoints",
    apsw.SQLITE_ATTACH: "attach a database",
    apsw.SQLITE_DETACH: "detach a database",
    apsw.SQLITE_PRAGMA: "use PRAGMA",
}
_COLUMN_IS_SECOND = {apsw.SQLITE_READ, apsw.SQLITE_UPDATE}
_NAMELESS = {apsw.SQLITE_FUNCTION, apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE}


@contextmanager
def user_transaction(connection: apsw.Connection) -> Iterator["UserTransaction"]:
    """Lend the open transaction of a connection to a body.

    Raises:
        UsageError: a statement of the body has ended the transaction, so nothing of it is left.
    """
    transaction = UserTransaction(connection)
    connection.authorizer = transaction.authorize
    try:
        yield transaction
    finally:
        connection.authorizer = None
        ended = transaction.over
        transaction.over = True
    if ended:
        raise UsageError("A statement of the body ended the transaction: all of it is undone.")


class UserTransaction:
    """Keeps the contract of ``holdfast.ports.Transaction``, until it is ``over``."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._refusal = ""
        self.over = False

    def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        if self.over:
            raise UsageError(f"The transaction is over, this came too late: {sql}")
        self._refusal = ""

        def see(_cursor: apsw.Cursor, statement: str, _params: object) -> bool:
            if statement.strip() != sql.strip():
                raise UsageError(f"A body gives one statement at a time, this is more: {sql}")
            return True

        cursor = self._connection.cursor()
        cursor.exec_trace = see
        try:
            return cursor.execute(sql, params).fetchall()
        except apsw.AuthError:
            raise UsageError(
                f"A body may not {self._refusal or 'do this'}: {sql}\n"
                "Hint: its statements run inside the log's own transaction; use tables of your own."
            ) from None
        finally:
            self.over = not self._connection.in_transaction  # INSERT OR ROLLBACK … has ended it

    def authorize(
        self, action: int, first: str | None, second: str | None, _db: str | None, _by: str | None
    ) -> int:
        """Say whether a statement may do something; SQLite asks when it compiles the statement."""
        names = (
            ()
            if action in _NAMELESS
            else (first, second)[: 1 if action in _COLUMN_IS_SECOND else 2]
        )
        ours = [name for name in names if name is not None and name.lower() in OBJECTS]
        if action in _REFUSED:
            self._refusal = _REFUSED[action]
        elif ours:
            self._refusal = f"touch {ours[0]!r}, which is holdfast's"
        else:
            return apsw.SQLITE_OK
        return apsw.SQLITE_DENY
