"""Rests in PostgreSQL: which providers have asked to be left alone, by the database's clock."""

from collections.abc import Callable
from typing import TypeVar

from holdfast.ports import Rest
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, single
from holdfast.stores.postgres.link import Link

__all__ = ["RestsInPostgres"]

T = TypeVar("T")


class RestsInPostgres:
    """What a ``PostgresStore`` knows of providers."""

    _near: Link

    async def rest(self, provider: str, *, now: int, rest_us: int) -> None:
        self._writing()
        at = self._lease_now(now)
        if rest_us:
            await self._ask(self._near, lambda: single(sql.REST, provider, at, rest_us))
        else:
            await self._ask(self._near, lambda: single(sql.REST_ENDS, provider))

    async def rests(self, *, now: int) -> list[Rest]:
        at = self._lease_now(now)
        found = await self._ask(self._near, lambda: single(sql.RESTS, at))
        return [Rest(*fields) for fields in found]

    async def probe(self, provider: str, *, now: int, rest_us: int) -> bool:
        self._writing()  # if the answer is lost nobody tries, until the rest is over once more
        at = self._lease_now(now)
        return bool(
            await self._ask(self._near, lambda: single(sql.PROBE, at, rest_us, provider, at))
        )

    def _writing(self) -> object:
        raise NotImplementedError

    def _lease_now(self, now: int) -> int | None:
        raise NotImplementedError

    async def _ask(
        self, link: Link, question: Callable[[], Flow[T]], *, patience_s: float | None = None
    ) -> T:
        raise NotImplementedError
