"""Kill, stop or drain a process at every point of a program, and judge what is left each time.

``everywhere`` first lets the program run undisturbed: that tells the points and what is right. Then
it runs it anew for each point, with one disaster at that point. A failure names the program, the
seed, the disaster and the point's number, and ``once_at`` repeats it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.core.specs import agent_spec
from holdfast.ports import Store
from holdfast.testing.faults import Trouble
from holdfast.testing.host import HostLoop, at_once
from holdfast.testing.invariants import Remains, check, remains
from holdfast.testing.simulation import Process, Program, Simulation
from holdfast.testing.watch import LEASE_S, POLL_S

__all__ = [
    "BrokenPromise",
    "Disaster",
    "OpenStore",
    "Outcome",
    "everywhere",
    "finish",
    "judge",
    "once_at",
    "undisturbed",
]

Disaster = Literal["none", "kill", "stop", "pause", "drain"]
"""What happens to a process.

``stop`` lasts until another one has taken over and finished, ``pause`` only until another one has
claimed a run.
"""
OpenStore = Callable[[], Awaitable[Store]]
SLACK_S = 2.0
WRITE_S = 0.002
"""How long an append takes to be made, and again to be answered; a heartbeat does, too."""
_SLOW = ("append", "transact", "renew")


class BrokenPromise(AssertionError):  # noqa: N818 - it states a fact
    """An invariant does not hold after a disaster."""


class OneDisaster:
    """A fate: one disaster at one point."""

    def __init__(self, disaster: Disaster, point: int) -> None:
        self._disaster = disaster
        self._point = point
        self.label = ""

    def at(self, process: Process, number: int, label: str) -> None:
        if number != self._point:
            return
        self.label = label
        match self._disaster:
            case "kill":
                process.kill()
            case "stop" | "pause":
                process.simulation.stop(process, claimed=self._disaster == "pause")
            case "drain":
                if process.worker is not None:
                    process.loop.call_soon(process.worker.drain)
            case "none":
                pass

    def trouble(self, process: Process, label: str) -> Trouble:  # noqa: ARG002 - all are alike
        return Trouble(WRITE_S, WRITE_S) if label.startswith(_SLOW) else Trouble()


@dataclass
class Outcome:
    """What came of one simulation."""

    result: Any
    left: Remains
    points: list[str]
    moments: list[tuple[int, int]]
    deeds: Counter[tuple[object, ...]]
    passed_us: int


def once_at(
    program: Program,
    fresh: Callable[[], OpenStore],
    disaster: Disaster = "none",
    point: int = 0,
    *,
    seed: int = 0,
) -> Outcome:
    """Run a program on a fresh store with one disaster, and check the invariants."""
    return finish(Simulation(program, fresh(), OneDisaster(disaster, point), seed))


def finish(simulation: Simulation, *, abreast: int = 1) -> Outcome:
    """Bring a simulation to its end, and check the invariants.

    Args:
        simulation: Not yet begun.
        abreast: How many processes work at a time.

    Raises:
        AssertionError: an invariant does not hold.
    """
    try:
        simulation.run_to_the_end(abreast=abreast)
        result = simulation.result()
    finally:
        simulation.bury_all()
    with HostLoop().running():
        store = at_once(simulation.open_store())
        left = remains(store)
        at_once(store.close())
    program = simulation.program
    agents = [agent_spec(agent) for agent in program.upgrade or program.agents]
    messages, deterministic = simulation.watch.messages, program.deterministic
    check(left, program.world, agents, messages, deterministic=deterministic)
    return Outcome(
        result,
        left,
        simulation.points,
        simulation.moments,
        program.world.tally(),
        simulation.time.passed_us,
    )


def everywhere(
    program: Program,
    fresh: Callable[[], OpenStore],
    disaster: Disaster,
    *,
    seed: int = 0,
    literally: bool = False,
    points_max: int = 1_000_000,
) -> int:
    """Try a disaster at every point of a program; return at how many.

    A killed process leaves nothing but the store and the world. So of several points in a row
    between which neither changed nor any time passed, killing at one is killing at all of them, and
    only the first is tried.

    Args:
        program: The program.
        fresh: Makes an empty store and returns what opens it; its calls must be done at once.
        disaster: What happens.
        seed: Decides everything else.
        literally: Kill at the other points too.
        points_max: At how many points, spread evenly over the program; all, unless said.

    Raises:
        BrokenPromise: an invariant does not hold; names the seed and the point.
    """
    reference = undisturbed(program, fresh, seed=seed)
    numbers = _worth_trying(reference, disaster, literally=literally)
    step = max(1.0, len(numbers) / points_max)
    chosen = [numbers[int(n * step)] for n in range(min(len(numbers), points_max))]
    for number in chosen:
        try:
            outcome = once_at(program, fresh, disaster, number, seed=seed)
            _judge(reference, outcome, disaster)
        except BaseException as error:
            label = reference.points[number - 1]
            raise BrokenPromise(
                f"program {program.name!r}, seed {seed}: {disaster} at point {number} ({label}):"
                f" {type(error).__name__}: {error}"
            ) from error
    return len(chosen)


def _worth_trying(reference: Outcome, disaster: Disaster, *, literally: bool) -> list[int]:
    """Return the numbers of the points at which a disaster may make a difference of its own."""
    numbers = []
    moment = (-1, -1)
    for number, label in enumerate(reference.points, 1):
        before, moment = moment, reference.moments[number - 1]
        within = "of a transaction" in label
        if disaster in ("stop", "pause") and within:
            continue  # the transaction holds the store: nobody else could take over
        if disaster == "kill" and moment == before and not (within or literally):
            continue
        numbers.append(number)
    return numbers


def undisturbed(program: Program, fresh: Callable[[], OpenStore], *, seed: int = 0) -> Outcome:
    """Return what comes of a program when nothing happens.

    Raises:
        BrokenPromise: it is not what the program expects, or an invariant does not hold.
    """
    try:
        outcome = once_at(program, fresh, seed=seed)
        expected = outcome.result if program.expects is ... else program.expects
        assert outcome.result == expected, f"{outcome.result} is not {expected}"
    except BaseException as error:
        raise BrokenPromise(
            f"program {program.name!r}, seed {seed}, undisturbed: {type(error).__name__}: {error}"
        ) from error
    return outcome


def judge(reference: Outcome, outcome: Outcome, *, repeats: bool = False) -> None:
    """Compare what came of disasters with what is right.

    Args:
        reference: What came of the same program undisturbed.
        outcome: What is judged.
        repeats: Whether deeds may have been done again: a body was under way when its process was
            stopped, and acted when that went on, after a true "it did not happen".

    Raises:
        AssertionError: it is not right.
    """
    more = outcome.deeds - reference.deeds
    assert repeats or not more, f"done too often: {more}"
    assert not reference.deeds - outcome.deeds, f"not done: {reference.deeds - outcome.deeds}"
    if not more:
        assert outcome.result == reference.result, f"{outcome.result} is not {reference.result}"
    assert outcome.left.statuses() == reference.left.statuses(), f"{outcome.left.statuses()}"
    assert _unread(outcome.left) == _unread(reference.left), f"{_unread(outcome.left)}"
    failures = outcome.left.count("step.failed") - reference.left.count("step.failed")
    # While a process is stopped, time passes in which a failing step may be due again.
    assert repeats or failures <= 0, f"{failures} more failures than without a disaster"


def _judge(reference: Outcome, outcome: Outcome, disaster: Disaster) -> None:
    """Judge what came of one disaster at one point."""
    stopped = disaster in ("stop", "pause")
    judge(reference, outcome, repeats=stopped)
    limit_s = SLACK_S + (0 if disaster == "drain" else LEASE_S + POLL_S)
    took_s = (outcome.passed_us - reference.passed_us) / 1e6
    assert stopped or took_s <= limit_s, f"it took {took_s} s longer"
    if disaster == "drain":
        doubts = outcome.left.count("step.doubted") - reference.left.count("step.doubted")
        assert doubts <= 0, "a drain leaves a doubt"


def _unread(left: Remains) -> set[tuple[str, str, str]]:
    """Return the unread messages of users, those of random ids by their topic alone."""
    return {
        (run, inbox.message.topic, inbox.message.id)
        for run, inboxes in left.unread.items()
        for inbox in inboxes
        if not inbox.message.topic.startswith("$")
    }
