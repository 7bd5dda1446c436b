"""Real time and real chance, behind the ports ``Clock`` and ``Entropy``."""

import os
import time

__all__ = ["SystemClock", "SystemEntropy"]


class SystemClock:
    """The machine's clock, kept from going back when somebody sets it."""

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        self._last = max(self._last, time.time_ns() // 1000)
        return self._last


class SystemEntropy:
    """The operating system's randomness, fetched in blocks."""

    _BLOCK = 4096

    def __init__(self) -> None:
        self._left = b""

    def bytes(self, n: int) -> bytes:
        if len(self._left) < n:
            self._left = os.urandom(max(n, self._BLOCK))
        taken, self._left = self._left[:n], self._left[n:]
        return taken
