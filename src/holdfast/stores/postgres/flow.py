"""What is said to the database, apart from how: rounds of statements out, their rows in.

A *flow* is a generator. It yields rounds, each a list of statements with their values, is sent the
rows of each statement, and returns what came of it all. ``drive`` sends each round through an
asyncio connection in pipeline mode: one round trip and one transaction; ``drive_whole`` makes one
transaction of all rounds. ``drive_inside`` runs the same flow inside a transaction that somebody
else holds.

Invariant: but for ``drive_whole``, nothing is told before the round it rests on is committed, for
the rows of a round are handed over behind its end alone.
"""

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection, Connection

from holdfast.stores.postgres.values import adapt_values

__all__ = ["Flow", "Round", "Row", "Statement", "drive", "drive_inside", "drive_whole", "single"]

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
Statement: TypeAlias = tuple[str, Sequence[Any]]
Round: TypeAlias = list[Statement]
Flow: TypeAlias = Generator[Round, list[list[Row]], T]


def single(sql: str, *values: Any) -> Flow[list[Row]]:
    """Send one statement and return its rows."""
    (rows,) = yield [(sql, values)]
    return rows


async def drive(connection: AsyncConnection, flow: Flow[T]) -> T:
    """Carry out a flow, each round in a transaction of its own."""
    rows: list[list[Row]] | None = None
    while True:
        try:
            statements = next(flow) if rows is None else flow.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result
        rows = await _round(connection, statements)


async def drive_whole(connection: AsyncConnection, flow: Flow[T]) -> T:
    """Carry out a flow, all its rounds in one transaction."""
    async with connection.transaction():
        return await drive(connection, flow)


def drive_inside(connection: Connection, flow: Flow[T]) -> T:
    """Carry out a flow inside the open transaction of a connection."""
    rows: list[list[Row]] | None = None
    while True:
        try:
            statements = next(flow) if rows is None else flow.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result
        rows = []
        for sql, values in statements:
            cursor = connection.cursor(binary=True)
            adapt_values(cursor)  # not the connection, which the body's statements use as well
            cursor.execute(sql.encode(), values, prepare=True)
            rows.append(cursor.fetchall() if cursor.description else [])


async def _round(connection: AsyncConnection, statements: Round) -> list[list[Row]]:
    cursors = []
    if len(statements) == 1:
        ((sql, values),) = statements
        cursors.append(connection.cursor(binary=True))
        await cursors[0].execute(sql.encode(), values, prepare=True)
    else:
        async with connection.pipeline():
            for sql, values in statements:
                cursors.append(connection.cursor(binary=True))
                await cursors[-1].execute(sql.encode(), values, prepare=True)
    return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]
