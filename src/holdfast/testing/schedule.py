"""One seeded schedule of workers, messages, timers and crashes, for any store.

What comes next is drawn from the seed and from what the store has answered: which runs it gave to a
worker and what it held for them. So two stores end with the same log only if they gave the same
answers all along.
"""

import random

from holdfast.core import events as ev
from holdfast.ports import Claim, Message, Store
from holdfast.testing.script import Script, conversation

__all__ = ["log_of_schedule"]

_LEASE_US = 30_001
_AGENTS = ("agent:one", "agent:two")


async def log_of_schedule(store: Store, seed: int, *, moves: int = 150) -> bytes:
    """Return all leaves in the order of the log after a schedule on an empty store."""
    schedule = _Schedule(store, random.Random(seed))  # noqa: S311 - a schedule, not a secret
    for _ in range(moves):
        await schedule.move()
    return b"".join([event.leaf for _, event in await store.read_log(0, limit=1_000_000)])


class _Schedule:
    def __init__(self, store: Store, chance: random.Random) -> None:
        self.store = store
        self.chance = chance
        self.now = 1_000_000
        self.runs: list[str] = []
        self.sent = 0

    async def move(self) -> None:
        self.now += 2 * self.chance.randrange(1, 4_000)
        kind = self.chance.choice(["create", "deliver", "deliver", *["work"] * 6, "release"])
        worker = self.chance.choice(["ann", "bob"])
        if kind == "create" or not self.runs:
            script = self.new(f"run-{len(self.runs)}", self.chance.choice(_AGENTS))
            await self.store.create(script.new(), [self.message()])
        elif kind == "deliver":
            await self.store.deliver([self.message(), self.message()])
        elif kind == "release":
            await self.store.release(worker)
        else:
            claims = await self.store.claim(
                worker, now=self.now, lease_us=_LEASE_US, agents=_AGENTS, limit=2
            )
            for claim in claims:
                await self.advance(claim)

    async def advance(self, claim: Claim) -> None:
        """Take a run some steps further, or die with its lease in hand."""
        run = claim.row.run
        script = Script(await self.store.read(run), at=self.now, epoch=claim.epoch)
        for _ in range(self.chance.randrange(3)):
            key = f"step#{script.state.seq}"
            await self.store.append(script.change((ev.StepStarted(key, "read"), b"{}")))
            payload = conversation(self.chance.randrange(9))
            await self.store.append(script.change((ev.StepFinished(key), payload)))
        inbox = await self.store.unread(run)
        seen = max((unread.n for unread in inbox), default=0)
        taken = inbox[: self.chance.randrange(3)]
        facts = [(ev.MessageReceived("receive#1", "t", m.message.id), b"1") for m in taken]
        numbers = [unread.n for unread in taken]
        match self.chance.choice(["die", "send", "child", "wait", "wait", "wait", "idle", "end"]):
            case "send":
                message = self.message(run)
                sent = (ev.MessageSent("send#1", message.to, "t", message.id), message.payload)
                change = script.change(*facts, sent, consume=numbers, deliver=[message])
            case "child":
                child = self.new(f"{run}/{len(self.runs)}", claim.row.agent, run)
                started = ev.ChildStarted("child#1", child.run, claim.row.agent)
                change = script.change(*facts, started, consume=numbers, create=[child.new()])
            case "wait":
                parked = ev.RunParked("waiting", self.now + self.chance.randrange(60_000))
                change = script.change(*facts, parked, consume=numbers, release=True, seen=seen)
            case "idle":
                idle = ev.TurnFinished(1)
                change = script.change(*facts, idle, consume=numbers, release=True, seen=seen)
            case "end":
                end = ev.RunSucceeded()
                change = script.change(*facts, end, consume=numbers, release=True, seen=seen)
            case _:
                return
        await self.store.append(change)

    def new(self, run: str, agent: str, parent: str = "") -> Script:
        self.runs.append(run)
        return Script.begin(run, agent=agent, at=self.now, parent=parent)

    def message(self, sender: str = "") -> Message:
        """Return a message to some run; every sixth or so has an id that was sent before."""
        to = self.chance.choice([*self.runs, "run-none"])
        self.sent += self.chance.random() < 5 / 6
        return Message(to, f"m{self.sent}", "t", b"1", self.now, sender)
