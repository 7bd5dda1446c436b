"""How long to wait before another attempt.

Delays are drawn from the run's seed, so the log and the code agree on them for ever.
"""

import hashlib
from dataclasses import dataclass

__all__ = ["Retry", "backoff_s", "draw"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is attempted and how long it waits in between.

    Only failures count as attempts used; a lost worker, a deploy or a drain does not.

    Raises:
        ValueError: attempts < 1, or base_s and cap_s out of order.
    """

    attempts: int = 5
    base_s: float = 0.2
    cap_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts}): at least 1 attempt is needed")
        if not 0 < self.base_s <= self.cap_s:
            raise ValueError(
                f"Retry(base_s={self.base_s}, cap_s={self.cap_s}): 0 < base_s <= cap_s"
            )


def draw(seed: int, *labels: object) -> float:
    """Return a number in [0, 1) that depends on seed and labels alone, uniform over labels."""
    text = ":".join(str(part) for part in (seed, *labels))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def backoff_s(attempt: int, *, base_s: float, cap_s: float, seed: int, key: str = "") -> float:
    """Return how long to wait before an attempt, in seconds.

    Full jitter: uniform in [0, min(cap_s, base_s * 2 ** (attempt - 2))], drawn from ``seed``,
    ``key`` and ``attempt`` alone, so that the log and the code always agree. Source: M. Brooker,
    "Exponential Backoff and Jitter", AWS, 2015.

    Args:
        attempt: The attempt about to be made; 1 is the first and never waits.
        base_s: Upper bound of the wait before attempt 2, in seconds; > 0.
        cap_s: Largest wait, in seconds; >= base_s.
        seed: Any integer; the run's own is ``RunState.seed``.
        key: The step key, so that steps failing together do not come back together.

    Raises:
        ValueError: attempt < 1, or base_s and cap_s out of order.
    """
    if attempt < 1 or not 0 < base_s <= cap_s:
        raise ValueError(f"backoff_s({attempt}, base_s={base_s}, cap_s={cap_s}): out of range")
    if attempt == 1:
        return 0.0
    bound = min(cap_s, base_s * 2.0 ** min(attempt - 2, 60))
    return bound * draw(seed, "backoff", key, attempt)
