"""The PostgreSQL store: one database, many workers on many machines.

Nothing else of holdfast needs psycopg, so it comes with an extra, and its absence is said here.
"""

from holdfast.errors import UsageError

try:
    from holdfast.stores.postgres.store import PostgresStore
except ModuleNotFoundError as error:
    if error.name != "psycopg":
        raise
    raise UsageError(
        "a store on PostgreSQL needs psycopg, which is not installed."
        " Hint: pip install 'holdfast[postgres]'"
    ) from error

__all__ = ["PostgresStore"]
