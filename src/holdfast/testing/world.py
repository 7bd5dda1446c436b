"""The world outside: what the bodies of steps act upon, and what is left of it after every crash.

A simulated world survives the processes that act on it. It counts deeds by kind and arguments and
remembers for each which attempt at which step did it, under which idempotency key, and in which
process. It can fail, after acting too; it honours idempotency keys where it is told to; and it can
be asked what has happened, by ``reconcile`` or by a person.

::

    world = World()

    @hf.tool(effect="once", reconcile=lambda order: world.find("refund", order) or hf.NOT_DONE)
    async def refund(order: str) -> int:
        return world.act("refund", order)
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from holdfast.errors import UsageError
from holdfast.runtime.context import STEP, StepContext

__all__ = ["Deed", "Stage", "World", "WorldError"]


class WorldError(ConnectionError):
    """The world answered with an error; whether it has acted is another matter."""


class Deed(NamedTuple):
    """Something that a body has done."""

    kind: str
    args: tuple[object, ...]
    receipt: int
    """How many-th deed of this kind with these arguments it is, from 1."""
    run: str
    turn: int
    key: str
    """The step key."""
    attempt: int
    idempotency_key: str
    process: str
    at_us: int
    """When, in µs since the simulation began."""


class Stage(Protocol):
    """The simulation that a world is part of."""

    @property
    def process_name(self) -> str:
        """The process that runs now."""
        ...

    @property
    def passed_us(self) -> int:
        """How much time has passed."""
        ...

    def point(self, label: str) -> None:
        """Come to a place where the process that runs now may die, be stopped or be drained."""
        ...

    def begins(self, context: StepContext) -> int:
        """Check that a body may act, and return the turn it belongs to."""
        ...

    def touched(self) -> None:
        """Note that the world has changed."""
        ...

    def astray(self) -> None:
        """Note that a body runs that belongs to no run."""
        ...


class World:
    """What bodies act upon.

    Args:
        honours: Kinds of which a deed asked for again under its idempotency key is not done again.
        faults: Kind → how the calls of that kind go wrong, in order: ``""`` (not at all), ``lost``
            (an error, and nothing was done), ``cut`` (done, and an error all the same).
    """

    def __init__(
        self, *, honours: Collection[str] = (), faults: dict[str, Sequence[str]] | None = None
    ) -> None:
        self.honours = frozenset(honours)
        self._faults = faults or {}
        self.deeds: list[Deed] = []
        self.reads: Counter[tuple[object, ...]] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        """(run, step key) → how many of its attempts the world has answered with an error."""
        self._calls: Counter[str] = Counter()
        self._stage: Stage | None = None

    def begin(self, stage: Stage) -> None:
        """Become as new, as part of a simulation."""
        self._stage = stage
        self.deeds = []
        self.reads = Counter()
        self.failures = Counter()
        self._calls = Counter()

    def act(self, kind: str, *args: object) -> int:
        """Do something, in the body of an effect, and return the receipt.

        Raises:
            WorldError: as ``faults`` has it.
        """
        stage = self._on_stage()
        context = self._context(stage)
        turn = stage.begins(context)
        stage.point(f"before deed {kind} by {context.run} {context.key}")
        fault = self._fault(kind, context)
        if fault == "lost":
            raise WorldError(f"{kind}: nothing was done")
        deed = self._known(kind, args, context)
        if deed is None:
            receipt = 1 + self.count(kind, *args)
            deed = Deed(
                kind,
                args,
                receipt,
                context.run,
                turn,
                context.key,
                context.attempt,
                context.idempotency_key,
                stage.process_name,
                stage.passed_us,
            )
            self.deeds.append(deed)
            stage.touched()
        stage.point(f"behind deed {kind} by {context.run} {context.key}")
        if fault == "cut":
            raise WorldError(f"{kind}: the connection was reset")
        return deed.receipt

    def look(self, kind: str, *args: object) -> int:
        """Read something, in the body of a step, and return how often it has been read.

        Raises:
            WorldError: as ``faults`` has it.
        """
        stage = self._on_stage()
        context = self._context(stage)
        stage.point(f"in {kind} by {context.run} {context.key}")
        self.reads[(kind, *args)] += 1
        stage.touched()
        if self._fault(kind, context):
            raise WorldError(f"{kind}: no answer")
        return self.reads[(kind, *args)]

    def find(self, kind: str, *args: object) -> int | None:
        """Return the receipt of the latest deed of this kind with these arguments."""
        self._on_stage().point(f"in the search for {kind}")
        return self.count(kind, *args) or None

    def count(self, kind: str, *args: object) -> int:
        """Return how often this has been done."""
        return sum((deed.kind, deed.args) == (kind, args) for deed in self.deeds)

    def done_by(self, run: str, turn: int, key: str) -> Deed | None:
        """Return the latest deed of a step."""
        wanted = (run, turn, key)
        found = (d for d in reversed(self.deeds) if (d.run, d.turn, d.key) == wanted)
        return next(found, None)

    def tally(self) -> Counter[tuple[object, ...]]:
        """Return how often each thing has been done."""
        return Counter((deed.kind, *deed.args) for deed in self.deeds)

    def _known(self, kind: str, args: tuple[object, ...], context: StepContext) -> Deed | None:
        if kind not in self.honours:
            return None
        wanted = (kind, args, context.idempotency_key)
        found = (d for d in self.deeds if (d.kind, d.args, d.idempotency_key) == wanted)
        return next(found, None)

    def _fault(self, kind: str, context: StepContext) -> str:
        self._on_stage().touched()
        n = self._calls[kind]
        self._calls[kind] += 1
        faults = self._faults.get(kind, ())
        fault = faults[n] if n < len(faults) else ""
        if fault:
            self.failures[context.run, context.key] += 1
        return fault

    def _on_stage(self) -> Stage:
        if self._stage is None:
            raise UsageError("this World is in no simulation. Hint: Program(world=…)")
        return self._stage

    @staticmethod
    def _context(stage: Stage) -> StepContext:
        context = STEP.get()
        if context is None:
            stage.astray()
            raise UsageError("a World is for the bodies of steps. Hint: call it under @hf.step.")
        return context
