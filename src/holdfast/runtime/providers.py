"""Leaves providers alone that ask for it, for all workers of a store at once.

A provider that answers 429 or 503 with Retry-After has said so to one run; a hundred others would
be told the same, one by one, and make it worse. So it is noted in the store, and until the time has
come nobody asks. Then one request goes first: if it is answered, all may ask again; if not, its
Retry-After counts. Should its process die, the next goes first ``PROBE_S`` later.

Whoever has waited ``WAIT_S_MAX`` asks all the same, so that an agent hears from its provider and
may turn to another one. A store in trouble holds up nobody: this is a courtesy, not a guarantee.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from holdfast.errors import StoreError
from holdfast.ports import Clock, Rests
from holdfast.runtime.bodies import said_retry_after_s

__all__ = ["Providers"]

_LOG = logging.getLogger("holdfast")
REST_S_MAX = 60.0
"""A provider's word counts for so long; then it is asked whether it still holds."""
WAIT_S_MAX = 60.0
PROBE_S = 10.0
LOOK_S = 0.5
"""How often it is looked whether others may ask again already."""


class Providers:
    """Asks providers, in turn with all who share the store.

    Args:
        store: Where rests are kept.
        clock: What time it is.
    """

    def __init__(self, store: Rests, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Who of this process looks at the store for all who wait for a provider."""

    async def ask(self, provider: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a request when the provider wants it; returns its response, which has headers."""
        first = await self._wait(provider)
        response = await send()
        said_s = 0.0 if response.is_success else self._said_s(response.headers)
        if first or said_s:
            rest_us = int(min(said_s, REST_S_MAX) * 1e6)
            try:
                await self._store.rest(provider, now=self._clock.now(), rest_us=rest_us)
            except StoreError as error:
                _LOG.warning("provider %r: %s", provider, error)
        return response

    def _said_s(self, headers: Mapping[str, str]) -> float:
        return said_retry_after_s(headers, self._clock.now() / 1e6)

    async def _wait(self, provider: str) -> bool:
        """Wait until the provider may be asked; tell whether the others wait for the answer."""
        time = asyncio.get_running_loop().time
        enough = time() + WAIT_S_MAX
        async with self._turns[provider]:  # whoever has it has waited longer
            while time() < enough:
                try:
                    left_s, first = await self._look(provider)
                except StoreError as error:
                    _LOG.warning("provider %r: %s", provider, error)
                    return False
                if left_s <= 0:
                    return first
                await asyncio.sleep(min(left_s, LOOK_S))
        return False

    async def _look(self, provider: str) -> tuple[float, bool]:
        """Return how long there is to wait, in seconds, and whether it is we who may try."""
        now = self._clock.now()
        for rest in await self._store.rests(now=now):
            if rest.provider != provider:
                continue
            if rest.left_us > 0:
                return rest.left_us / 1e6, False
            first = await self._store.probe(provider, now=now, rest_us=int(PROBE_S * 1e6))
            return (0.0 if first else LOOK_S), first
        return 0.0, False
