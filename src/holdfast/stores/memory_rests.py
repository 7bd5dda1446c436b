"""Rests of the reference store: which providers have asked to be left alone."""

from holdfast.ports import Rest

__all__ = ["RestsInMemory"]


class RestsInMemory:
    """What a ``MemoryStore`` knows of providers."""

    _rests: dict[str, int]
    """Provider → until when it is to be left alone."""

    async def rest(self, provider: str, *, now: int, rest_us: int) -> None:
        if rest_us:
            self._rests[provider] = now + rest_us
        else:
            self._rests.pop(provider, None)

    async def rests(self, *, now: int) -> list[Rest]:
        return [Rest(provider, until - now) for provider, until in sorted(self._rests.items())]

    async def probe(self, provider: str, *, now: int, rest_us: int) -> bool:
        mine = provider in self._rests and self._rests[provider] <= now
        if mine:
            self._rests[provider] = now + rest_us
        return mine
