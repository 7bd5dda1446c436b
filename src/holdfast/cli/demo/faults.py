"""Faults drawn from a seed: which request is hit, by what, and how long it takes.

A draw depends on the seed, on what is asked for and on how many times that was asked before, never
on the order in which requests from different tickets arrive. So a desk that asks the same meets the
same faults, on however many threads.

Invariant: of the requests for one thing at most `ROW_MAX` in a row fail, so that whoever asks
patiently gets through.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NONE", "ROW_MAX", "Chance", "Fault", "draw"]

ROW_MAX = 2


@dataclass(frozen=True, slots=True)
class Chance:
    """A fault, its probability, and the shortest and longest wait that goes with it."""

    name: str
    probability: float
    wait_ms: tuple[int, int] = (0, 0)
    fails: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request; ``none`` is the name of nothing.

    Attributes:
        wait_s: A wait that belongs to the fault, in seconds: how slow, or when to come back.
        point: Uniform in [0, 1): where inside the answer it strikes, for faults that need a place.
    """

    name: str
    fails: bool
    wait_s: float
    point: float


NONE = Fault("none", fails=False, wait_s=0.0, point=0.0)


def draw(seed: int, what: str, nth: int, chances: Sequence[Chance]) -> Fault:
    """Return the fault of the ``nth`` request for ``what``; 1 is the first.

    Raises:
        ValueError: nth < 1.
    """
    if nth < 1:
        raise ValueError(f"nth: got {nth}; expected at least 1")
    fault, in_a_row = NONE, 0
    for number in range(1, nth + 1):
        fault = _draw_one(seed, what, number, chances)
        if in_a_row == ROW_MAX and fault.fails:
            fault = NONE
        in_a_row = in_a_row + 1 if fault.fails else 0
    return fault


def _draw_one(seed: int, what: str, number: int, chances: Sequence[Chance]) -> Fault:
    # Not for secrets: a seed must give the same faults again.  A text seed is hashed the same way
    # in every process.
    chance_of = random.Random(f"{seed}|{what}|{number}")  # noqa: S311 - reproducible, not secret
    dice, wait, point = chance_of.random(), chance_of.random(), chance_of.random()
    for chance in chances:
        dice -= chance.probability
        if dice < 0:
            shortest, longest = chance.wait_ms
            wait_s = round(shortest + wait * (longest - shortest)) / 1000
            return Fault(chance.name, chance.fails, wait_s, point)
    return NONE
