"""The agents whose streams were frozen at release 0.1. Frozen with them: do not change."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import AsyncIterator

import pydantic

import holdfast as hf
from holdfast.runtime.births import collection_run
from holdfast.subjects import Subject

RETRY = hf.Retry(attempts=3, base_s=1, cap_s=60)


class World:
    """What the bodies of steps touch while a stream is recorded; a replay touches nothing."""

    def __init__(self):
        self.failures = 0
        self.found = {}

    def act(self):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the line went dead")


WORLD = World()


class Colour(enum.Enum):
    RED, GREEN = "red", 2


class Item(pydantic.BaseModel):
    name: str
    cents: int
    colour: Colour = Colour.RED
    when: dt.datetime | None = None


@dataclasses.dataclass
class Basket:
    items: list[Item]
    id: uuid.UUID
    rate: decimal.Decimal
    raw: bytes
    tags: frozenset[int]
    waits: dt.timedelta


WHEN = dt.datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=dt.UTC)


@hf.step
async def fetch(number: str, tags: set[str], raw: bytes = b"\xff\x00") -> Basket:
    items = [Item(name='kö"\\\n', cents=5, when=WHEN), Item(name="b", cents=7, colour=Colour.GREEN)]
    rate, wait = decimal.Decimal("1.10"), dt.timedelta(days=3, microseconds=1)
    raw += f"{number} {sorted(tags)}".encode()
    return Basket(items, uuid.UUID(int=7), rate, raw, frozenset({1, 2}), wait)


@hf.step(retry=RETRY)
async def look(n: int) -> int:
    WORLD.act()
    return n * 10


@hf.step
def look_sync(n: int) -> float:
    return n / 3


def find_payment(order: str) -> object:
    return WORLD.found.get(order, hf.UNKNOWN)


@hf.tool(effect="once", reconcile=find_payment)
async def pay(order: str, cents: int = 5) -> str:
    WORLD.act()
    return f"paid {order} {cents}"


@hf.tool(effect="idempotent", retry=RETRY)
async def ship(order: str) -> str:
    WORLD.act()
    return f"shipped {order}"


@hf.tool(effect="transactional")
def book(cents: int) -> int:
    hf.transaction().execute("CREATE TABLE IF NOT EXISTS book (cents INTEGER)")
    hf.transaction().execute("INSERT INTO book VALUES (?)", (cents,))
    return cents


@hf.step(effect="idempotent")
async def unreserve(what: str, outcome: int) -> str:
    WORLD.act()
    return f"{what} {outcome}"


@hf.tool(effect="once", compensate=unreserve)
async def reserve(what: str) -> int:
    return len(what)


@hf.step(retry=RETRY)
async def words(count: int) -> AsyncIterator[str]:
    for n in range(count):
        if n == 2:
            WORLD.act()
        yield f"word {n}"


# Agents


@hf.agent
async def contracts(number: str) -> list[str]:
    looked = await asyncio.gather(look(1), look(2))
    paid = await pay(number, sum(looked))
    return [paid, await ship(number), str(book(sum(looked))), str(look_sync(1))]


@hf.agent
async def values(number: str) -> Basket:
    basket = await fetch(number, {"x", "y", "z"})
    hf.emit(basket)
    hf.emit({"seen": [hf.now().year > 2000, hf.random(), str(hf.uuid()), hf.run_id()]})
    return basket


@hf.agent
def in_sync_code(n: int) -> str:
    return f"{look_sync(n):.3f} {look_sync(n + 1):.3f}"


@hf.agent
async def race(n: int) -> list[int]:
    tasks = [asyncio.create_task(after(n - i)) for i in range(n)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    first = [await look(task.result()) for task in done]
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(look(tasks.index(task))) for task in pending]
    in_order = [await one for one in asyncio.as_completed([look(n) for n in range(3)])]
    return first + sorted(task.result() for task in others) + sorted(in_order)


async def after(n):
    await asyncio.sleep(n * 3600)
    return n


@hf.agent
async def patience() -> str:
    try:
        word = await hf.receive("word", str, timeout=3600)
    except TimeoutError:
        word = "nothing"
    lock, queue = asyncio.Lock(), asyncio.Queue()
    async with lock:
        await queue.put(await hf.receive("word", str))
    return f"{word}, then {await queue.get()}"


class Chat(pydantic.BaseModel):
    said: list[str] = []
    seen: set[str] = set()
    total: int = 0


@hf.agent
async def chat(state: Chat, message: str) -> tuple[Chat, str]:
    if message == "boom":
        raise ValueError("boom was said")
    state.said.append(message)
    state.seen |= {message, message.upper()}
    state.total += await look(len(message))
    return state, f"{state.total}"


@hf.agent
async def mother(n: int) -> str:
    first, second = await asyncio.gather(leaver(n), failing(n), return_exceptions=True)
    hf.send("friend", {"from": hf.run_id()}, topic="news", id="news-1")
    return f"{first} and {type(second).__name__}"


@hf.agent
async def failing(n: int) -> str:
    raise LookupError(f"no {n}")


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
async def leaver(count: int) -> str:
    async with contextlib.aclosing(words(count)) as heard:
        async for word in heard:
            if word:
                break
    return word


@hf.agent
async def asker() -> str:
    answers = await asyncio.gather(hf.ask("Refund 5?", bool), hf.ask("Which one?"))
    return await pay(str(answers[1])) if answers[0] else "no"


@hf.agent(name="changing")
async def changing_before() -> int:
    first = await look(1)
    await hf.receive("go on")
    return first + await look(2)


@hf.agent(name="changing")
async def changing_after() -> int:
    """As before, with a new step behind a guard on both sides of the wait."""
    if hf.version_guard("look ahead"):
        await look(3)
    first = await look(1)
    await hf.receive("go on")
    if hf.version_guard("look back"):
        await look(4)
    return first + await look(2)


@hf.agent(name="accepted")
async def accepted_before() -> int:
    total = await look(1) + len(await pay("o-1"))
    await hf.receive("go on")
    return total


@hf.agent(name="accepted")
async def accepted_after() -> int:
    total = await look(11) + len(await pay("o-1"))
    await hf.receive("go on")
    return total


AGENTS = [contracts, values, in_sync_code, race, patience, chat, mother, failing, friend, trip]
AGENTS += [teller, leaver, asker, changing_after, accepted_after]


# What was done to record each stream; ``s`` is a stage.


def play_contracts(s):
    s.start(contracts, "o-7")
    s.play()


def play_retries(s):
    WORLD.failures = 2
    s.start(contracts, "o-8")
    s.play()


def play_values(s):
    s.start(values, "7")
    s.play()


def play_in_sync_code(s):
    s.start(in_sync_code, 4)
    s.play()


def play_race(s):
    s.start(race, 3)
    s.play()


def play_patience(s):
    s.start(patience)
    s.play()
    s.tell("late", topic="word")
    s.play()


def play_patience_open(s):
    s.start(patience)
    s.work()


def play_chat(s):
    s.start(chat, "hello")
    for n, message in enumerate(["boom", "again", "and again"]):
        s.tell(message, id=f"m{n}")
    s.play()


def play_family(s):
    s.start(friend, id="friend")
    s.start(mother, 5)
    s.play()


def play_trip_cancelled(s):
    s.start(trip)
    s.work()
    s.run(s.client.cancel("r", by="ann"))
    s.play()


def play_trip_failed(s):
    s.start(trip)
    s.work()
    WORLD.failures = 3
    s.tell(True, topic="depart")
    s.play()


def play_stream_cut(s):
    WORLD.failures = 1
    s.start(teller, 4)
    s.play()


def play_stream_killed(s):
    s.start(teller, 3)
    s.work_until_killed(3, made=True)
    s.play()


def play_doubt_found(s):
    s.start(contracts, "o-9")
    s.work_until_killed(4, made=True)
    WORLD.found["o-9"] = "found: paid o-9"
    s.play()


def play_doubt_open(s):
    s.start(asker)
    s.tell("o-10", topic="ask#2")
    s.tell(True, topic="ask#1")
    WORLD.failures = 1
    s.play()


def play_doubt_person(s):
    play_doubt_open(s)
    s.run(s.client.resolve("r", "pay#1", did_not=True, by="ann"))
    s.play()


def play_guard_old(s):
    s.agents = (changing_before,)
    s.start(changing_before)
    s.work()
    s.agents = (changing_after,)
    s.tell(None, topic="go on")
    s.play()


def play_guard_new(s):
    s.start(changing_after)
    s.tell(None, topic="go on")
    s.play()


def play_accepted(s):
    s.agents = (accepted_before,)
    s.start(accepted_before)
    s.work()
    s.agents = (accepted_after,)
    s.tell(None, topic="go on")
    s.work()
    s.run(s.client.accept("r", by="ann"))
    s.play()


def play_erased(s):
    s.run(s.store.add_subject(Subject("S", b"wrapped")))
    s.start(chat, subject="S")
    s.play()
    s.run(s.client.cancel("r", by="ann"))
    s.play()
    s.run(s.client.erase("S", basis="a request", by="ann"))


def play_collected(s):
    said = {"now": s.clock.now(), "entropy": s.entropy}
    s.run(s.store.create(collection_run(s.clock.now(), b'{"by":"ann"}', **said)))


PLAYS = {
    name.removeprefix("play_"): play for name, play in globals().items() if name[:5] == "play_"
}
