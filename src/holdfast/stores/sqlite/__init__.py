"""The SQLite store: one file, several processes, a group commit."""

from holdfast.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
