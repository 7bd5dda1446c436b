"""The agent that several questions are asked of: effects, one after the other, of 500 bytes."""

from contestants.job import RESULT

import holdfast as hf

__all__ = ["effects"]


@hf.step(effect="idempotent")
async def effect(n: int) -> dict[str, str]:
    """An effect."""
    return RESULT


@hf.agent
async def effects(steps: int) -> int:
    """Make effects one after the other."""
    return sum([await effect(n) == RESULT for n in range(steps)])
