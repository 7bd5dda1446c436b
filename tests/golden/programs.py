"""The agents that the scenarios in this directory play; a release replaces agents by name.

``WORLD`` stands for everything outside: it counts what was done, and a scenario breaks it with the
command ``world``.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import holdfast as hf


class World:
    """What the bodies of steps touch."""

    def __init__(self):
        self.done = []
        self.failures = 0
        self.answers = {}

    def act(self, what):
        self.done.append(what)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the line went dead")


WORLD = World()
RETRY = hf.Retry(attempts=3, base_s=1, cap_s=60)


@hf.step(retry=RETRY)
async def look(n: int) -> int:
    WORLD.act(f"look {n}")
    return n * 10


def find_payment(order: str) -> object:
    return WORLD.answers.get(order, hf.UNKNOWN)


@hf.tool(effect="once")
async def pay(order: str, cents: int) -> str:
    WORLD.act(f"pay {order} {cents}")
    return f"paid {order}"


@hf.tool(effect="once", reconcile=find_payment)
async def pay_and_find(order: str) -> str:
    WORLD.act(f"pay {order}")
    return f"paid {order}"


@hf.tool(effect="idempotent", retry=RETRY)
async def ship(order: str) -> str:
    WORLD.act(f"ship {order} attempt {hf.attempt()}")
    return f"shipped {order}"


@hf.tool(effect="transactional")
def book(cents: int) -> int:
    transaction = hf.transaction()
    transaction.execute("CREATE TABLE IF NOT EXISTS book (cents INTEGER)")
    transaction.execute("INSERT INTO book VALUES (?)", (cents,))
    return transaction.execute("SELECT sum(cents) FROM book")[0][0]


@hf.step(effect="idempotent")
async def unbook(what: str, outcome: int) -> None:
    WORLD.act(f"unbook {what} {outcome}")


@hf.tool(effect="once", compensate=unbook)
async def reserve(what: str) -> int:
    WORLD.act(f"reserve {what}")
    return len(what)


@hf.step(retry=RETRY)
async def words(count: int) -> AsyncIterator[str]:
    for n in range(count):
        if n == 2:
            WORLD.act("words")
        yield f"word {n}"


# Agents


@hf.agent
async def order(number: str) -> list[str]:
    """Reads in parallel, then one effect of each contract."""
    looked = await asyncio.gather(look(1), look(2))
    paid = await pay(number, sum(looked))
    return [paid, await ship(number), str(book(sum(looked)))]


@hf.agent
async def payer(number: str) -> str:
    return await pay_and_find(number)


@hf.agent
async def shipper(number: str) -> str:
    return await ship(number)


@hf.agent
async def reader(n: int) -> str:
    try:
        return str(await look(n))
    except hf.StepFailed as error:
        return f"gave up: {error.error_type}"


@hf.agent
async def sleeper(days: int) -> str:
    before = hf.now()
    await asyncio.sleep(days * 86400)
    return str(hf.now() - before)


@hf.agent
async def hurried() -> str:
    try:
        word = await hf.receive("word", str, timeout=3600)
    except TimeoutError:
        word = "nothing"
    return f"{word}, then {await hf.receive('word', str)}"


@dataclasses.dataclass
class Till:
    total: int = 0


@hf.agent
async def till(state: Till, message: int) -> str:
    if message < 0:
        raise ValueError(f"{message} is no price")
    state.total += await look(message)
    return f"{state.total} in the till"


@hf.agent
async def mother(n: int) -> str:
    first, second = await asyncio.gather(reader(n), till_check(n))
    hf.send("friend", {"from": hf.run_id()}, topic="news")
    return f"{first} and {second}"


@hf.agent
async def till_check(n: int) -> str:
    await hf.receive("checked")
    return f"checked {n}"


@hf.agent
async def friend() -> dict[str, str]:
    return await hf.receive("news", dict[str, str])


@hf.agent
async def trip() -> None:
    await reserve("flight")
    await reserve("hotel")
    try:
        await hf.receive("depart")
    finally:
        await look(9)


@hf.agent
async def teller(count: int) -> str:
    heard = []
    async for word in words(count):
        hf.emit(word)
        heard.append(word)
    return ", ".join(heard)


@hf.agent
async def asker() -> str:
    if await hf.ask("Refund 5?", bool):
        return await pay("o-1", 5)
    return "no"


@hf.agent(name="changing")
async def changing_1() -> int:
    first = await look(1)
    await hf.receive("go on")
    return first + await look(2)


@hf.agent(name="changing")
async def changing_2() -> int:
    """Asks for something else at a place that old runs have passed."""
    first = await look(11)
    await hf.receive("go on")
    return first + await look(2)


@hf.agent(name="changing")
async def changing_3() -> int:
    """As the first, with a new step behind a guard on both sides of the wait."""
    if hf.version_guard("look ahead"):
        await look(3)
    first = await look(1)
    await hf.receive("go on")
    if hf.version_guard("look back"):
        await look(4)
    return first + await look(2)


ALL = [order, payer, shipper, reader, sleeper, hurried, till, mother, till_check, friend, trip]
ALL += [teller, asker]
RELEASES = {
    "1": [*ALL, changing_1],
    "2": [*ALL, changing_2],
    "3": [*ALL, changing_3],
}
