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


class Answer(Protocol):
    """What an ``append`` returns may be one: then nobody has to make a task to wait for it."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> object:
        """Have a callback called in the loop, not before this has returned."""
        ...

    def exception(self) -> BaseException | None:
        """Return the error that the append came to; raises CancelledError if it was cancelled."""
        ...
