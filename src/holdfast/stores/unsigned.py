"""What a store that nobody signs keeps for proofs: nothing (``holdfast.signed.SignedLog``)."""

from collections.abc import Callable

from holdfast.core.events import Event
from holdfast.errors import RunUnknown, UsageError
from holdfast.signed import Head, Signer

__all__ = ["UnsignedLog"]


class UnsignedLog:
    """A log that has no tree and takes no signer.

    Args:
        url: The store, for messages.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def signers(self) -> list[Signer]:
        return []

    async def enrol(self, signer: Callable[[Head | None], Signer]) -> Signer:  # noqa: ARG002 - refused
        raise UsageError(f"store {self._url!r}: a store of this kind cannot be signed")

    async def head(self) -> Head | None:
        return None

    async def hashes(self, level: int, n: int, width: int) -> bytes:
        raise UsageError(f"store {self._url!r} has no tile {level}/{n} of {width} hashes")

    async def index(self, run: str, seq: int) -> int:
        raise RunUnknown(f"event {run}@{seq} is not in the tree: the store is not signed")

    async def leaves(self, start: int, limit: int) -> list[Event]:  # noqa: ARG002 - there are none
        return []
