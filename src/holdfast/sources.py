"""Where time and chance come from, beside ``holdfast.ports``."""

from typing import Protocol

__all__ = ["Clock", "Entropy"]


class Clock(Protocol):
    """The time."""

    def now(self) -> int:
        """Return µs since the epoch of Unix; never a smaller value than the last call's."""
        ...


class Entropy(Protocol):
    """Chance: salts, seeds and names of workers come from here."""

    def bytes(self, n: int) -> bytes:
        """Return n bytes that nobody could guess."""
        ...
