"""A hostile world drawn from a seed: slow and failing stores, deaths, pauses, clocks put forward.

Two processes work on one store, their callbacks shuffled. Whatever the seed brings, a program must
end as it does undisturbed. ``chaos`` tries one seed; a failure names it, and trying it again
repeats the execution exactly.

With ``pauses`` a process may stop for longer than its lease with a body under way, and the clock
may be put forward, which ends leases early. Then a deed may rightly be done again: somebody looked,
it had not happened yet, and the paused body acted later. What must hold even so: one body per
intent, every attempt in the log, nothing of a stale epoch.
"""

import random
from collections.abc import Callable

from holdfast.testing.crashes import BrokenPromise, OpenStore, Outcome, finish, judge, undisturbed
from holdfast.testing.faults import Trouble
from holdfast.testing.simulation import Process, Program, Simulation

__all__ = ["chaos"]

CALM_AFTER = 12
"""So many disasters strike; then the program may come to its end."""


class Chaos:
    """A fate drawn from a seed."""

    def __init__(self, seed: int, *, pauses: bool) -> None:
        self._chance = random.Random(f"chaos {seed}")  # noqa: S311 - a schedule, not a secret
        self._pauses = pauses
        self._left = self._chance.randrange(CALM_AFTER + 1)
        self._rate = self._chance.choice([0.003, 0.01, 0.03])
        self._slow_s = self._chance.choice([0.0, 0.002, 0.05, 0.4])
        self._failing = self._chance.choice([0.0, 0.01, 0.05])

    def at(self, process: Process, number: int, label: str) -> None:  # noqa: ARG002 - the port's signature
        if not self._left or self._chance.random() > self._rate:
            return
        self._left -= 1
        disasters = ["kill", "kill", "drain"] + ["pause", "jump"] * self._pauses
        simulation = process.simulation
        match self._chance.choice(disasters):
            case "kill":
                process.kill()
            case "drain" if process.worker is not None:
                process.loop.call_soon(process.worker.drain)
            case "pause":
                simulation.stop_for(process, self._chance.randrange(1, 40_000_000))
            case "jump":
                simulation.time.jumped_us += self._chance.randrange(1, 30_000_000)
            case _:
                pass

    def trouble(self, process: Process, label: str) -> Trouble:  # noqa: ARG002 - chance decides
        chance, slow_s = self._chance, self._slow_s
        unavailable = ""
        if self._left and chance.random() < self._failing:
            self._left -= 1
            unavailable = chance.choice(["before", "after"])
        return Trouble(chance.random() * slow_s, chance.random() * slow_s, unavailable)


def chaos(
    program: Program, fresh: Callable[[], OpenStore], seed: int, *, pauses: bool = False
) -> Outcome:
    """Run a program under one seed's disasters, and judge what is left.

    Args:
        program: The program.
        fresh: Makes an empty store and returns what opens it; its calls must be done at once.
        seed: Decides everything.
        pauses: Whether processes may be paused beyond their lease, and clocks put forward.

    Raises:
        BrokenPromise: an invariant does not hold; names the seed.
    """
    reference = undisturbed(program, fresh)
    open_store = fresh()
    simulation = Simulation(program, open_store, Chaos(seed, pauses=pauses), seed, shuffled=True)
    try:
        outcome = finish(simulation, abreast=2)
        judge(reference, outcome, repeats=pauses)
    except BaseException as error:
        raise BrokenPromise(
            f"program {program.name!r}, seed {seed}{', pauses' * pauses}:"
            f" {type(error).__name__}: {error}"
        ) from error
    return outcome
