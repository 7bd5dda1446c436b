"""The user's tables beside the memory store, for ``transactional`` bodies: SQLite, in memory."""

import sqlite3
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from holdfast.errors import UsageError

__all__ = ["UserTables"]


class UserTables:
    """Lends out its tables, one transaction at a time."""

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator["_Transaction"]:
        """Commit what the block does to the user's tables, or undo it when anything is raised."""
        if self.connection is None:
            self.connection = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, self.connection.close)
        tables = self.connection
        tables.execute("BEGIN")
        transaction = _Transaction(tables)
        try:
            tables.set_authorizer(_authorize)
            yield transaction
            if transaction.over:
                raise UsageError("A statement of the body ended the transaction: all is undone.")
            tables.set_authorizer(None)
            tables.execute("COMMIT")
        finally:
            transaction.over = True
            tables.set_authorizer(None)
            if tables.in_transaction:
                tables.execute("ROLLBACK")


class _Transaction:
    """What a body sees of the user's tables; ``over`` when it may not see them any more."""

    def __init__(self, tables: sqlite3.Connection) -> None:
        self._tables = tables
        self.over = False

    def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        if self.over:
            raise UsageError(f"The transaction is over, this came too late: {sql}")
        try:
            return self._tables.execute(sql, params).fetchall()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_AUTH:
                raise
            raise UsageError(
                f"A body may not begin or end transactions, nor attach databases: {sql}"
            ) from None
        finally:
            self.over = not self._tables.in_transaction  # INSERT OR ROLLBACK … has ended it


_REFUSED = {
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
    sqlite3.SQLITE_ATTACH,
    sqlite3.SQLITE_DETACH,
}


def _authorize(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action in _REFUSED else sqlite3.SQLITE_OK
