"""The programs that disasters are tried on; together they use everything an agent may do.

Each is a function that builds a ``Program`` with a world of its own. A tool returns the receipt of
the world: how many-th deed of its kind it was, so that a deed done twice shows in the result too.
"""

import asyncio
from collections.abc import Callable

import holdfast as hf
from holdfast.testing.simulation import Program
from holdfast.testing.world import World

PROGRAMS: dict[str, Callable[[], Program]] = {}


def program(build: Callable[[], Program]) -> Callable[[], Program]:
    PROGRAMS[build.__name__] = build
    return build


async def until(client: hf.Client, run: str, *statuses: str) -> None:
    """Wait until a run is in one of these states, or has ended."""
    ended = ("succeeded", "failed", "cancelled")
    while (await client.row(run)).status not in (*statuses, *ended):  # noqa: ASYNC110 - virtual time passes, and nothing tells
        await asyncio.sleep(0.3)


async def end(client: hf.Client, run: str) -> object:
    """Wait for a run's end and return what came of it, its failure in words."""
    while True:
        try:
            return await client.result(run)
        except hf.RunParked:  # in doubt: somebody is about to look
            await asyncio.sleep(1.0)
        except hf.RunFailed as error:
            return f"{type(error).__name__}: {error}"


@program
def reads_then_once() -> Program:
    """Reads in a row, then a deed whose doubt reconcile settles."""
    world = World()

    @hf.step
    async def look(n: int) -> int:
        world.look("look", n)
        return n * 10

    def find(order: str) -> object:
        return world.find("refund", order) or hf.NOT_DONE

    @hf.tool(effect="once", reconcile=find)
    async def refund(order: str) -> int:
        return world.act("refund", order)

    @hf.agent
    async def desk(order: str) -> list[int]:
        first = await look(1)
        second = await look(first)
        return [first, second, await refund(order), await refund("another")]

    async def script(client: hf.Client) -> object:
        await client.start(desk, "order-7", id="desk")
        return await end(client, "desk")

    expects = [10, 100, 1, 1]
    return Program("reads_then_once", [desk], world, script, expects=expects)


@program
def once_by_hand() -> Program:
    """Deeds without reconcile: a person settles each doubt, the one after a failure too."""
    world = World(faults={"mail": ["", "cut", "lost"]})

    @hf.tool
    async def mail(to: str) -> int:
        return world.act("mail", to)

    @hf.agent
    async def postman() -> list[int]:
        return [await mail("ann"), await mail("bob"), await mail("eve")]

    async def script(client: hf.Client) -> object:
        await client.start(postman, id="postman")
        return await end(client, "postman")

    expects = [1, 1, 1]
    return Program("once_by_hand", [postman], world, script, expects=expects)


@program
def idempotent_fails_after_acting() -> Program:
    """The world acts, answers with an error, and honours keys: retries, and one deed each."""
    world = World(honours={"ship"}, faults={"ship": ["cut", "lost", "cut", "", "cut"]})

    @hf.tool(effect="idempotent")
    async def ship(order: str) -> int:
        return world.act("ship", order)

    @hf.agent
    async def store(orders: list[str]) -> list[int]:
        return [await ship(order) for order in orders]

    async def script(client: hf.Client) -> object:
        await client.start(store, ["a", "b"], id="store")
        return await end(client, "store")

    expects = [1, 1]
    return Program("idempotent_fails_after_acting", [store], world, script, expects=expects)


def book(name: str) -> list[tuple[str]]:
    """Write a name into a table of the user's, and return all that are there."""
    transaction = hf.transaction()
    transaction.execute("CREATE TABLE IF NOT EXISTS ledger (name TEXT)")
    transaction.execute("INSERT INTO ledger VALUES (?)", (name,))
    return transaction.execute("SELECT name FROM ledger ORDER BY rowid")  # type: ignore[return-value]  # rows of one column


@program
def transactions() -> Program:
    """Deeds in the log's own transaction, side by side and with a read beside them."""
    world = World()

    @hf.step
    async def look(n: int) -> int:
        await asyncio.sleep(0.1)
        world.look("look", n)
        return n

    @hf.tool(effect="transactional")
    async def enter(name: str) -> list[str]:
        return [name for (name,) in book(name)]

    @hf.tool(effect="transactional")
    async def enter_later(name: str) -> int:
        return len(book(name))

    @hf.agent
    async def clerk() -> list[object]:
        first, second, read = await asyncio.gather(enter("ann"), enter_later("bob"), look(3))
        return [first, second, read, await enter_later("eve")]

    async def script(client: hf.Client) -> object:
        await client.start(clerk, id="clerk")
        return await end(client, "clerk")

    expects = [["ann"], 2, 3, 3]
    return Program("transactions", [clerk], world, script, expects=expects)


@program
def gathered() -> Program:
    """Effects of all kinds side by side, slow and quick."""
    world = World(honours={"ship"})

    @hf.step
    async def look(n: int) -> int:
        await asyncio.sleep(0.3 / n)
        world.look("look", n)
        return n

    @hf.tool(effect="idempotent")
    async def ship(order: str) -> int:
        await asyncio.sleep(0.2)
        return world.act("ship", order)

    def find(order: str) -> object:
        return world.find("refund", order) or hf.NOT_DONE

    @hf.tool(effect="once", reconcile=find)
    async def refund(order: str) -> int:
        receipt = world.act("refund", order)
        await asyncio.sleep(0.15)
        return receipt

    @hf.tool(effect="once")
    async def mail(to: str) -> int:
        return world.act("mail", to)

    @hf.tool(effect="transactional")
    async def enter(name: str) -> list[str]:
        return [name for (name,) in book(name)]

    async def both(order: str) -> list[int]:
        return [await ship(order), await mail(order)]

    @hf.agent
    async def busy() -> list[object]:
        return await asyncio.gather(
            look(1), both("a"), refund("a"), look(2), look(3), enter("a"), both("b"), mail("c")
        )

    async def script(client: hf.Client) -> object:
        await client.start(busy, id="busy")
        return await end(client, "busy")

    expects = [1, [1, 1], 1, 2, 3, ["a"], [1, 1], 1]
    return Program("gathered", [busy], world, script, expects=expects)


@program
def race() -> Program:
    """The first of two wins, the loser is cancelled, and the winner decides what is done."""
    world = World()

    @hf.step
    async def ask(whom: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        world.look("ask", whom)
        return whom

    @hf.tool
    async def order(whom: str) -> int:
        return world.act("order", whom)

    @hf.agent
    async def buyer() -> list[object]:
        names = {"ann": 0.2, "bob": 0.1, "eve": 0.4}
        tasks = [asyncio.create_task(ask(name, s), name=name) for name, s in names.items()]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        winner = done.pop().result()
        return ["somebody", await order("whoever") if winner in names else 0]

    async def script(client: hf.Client) -> object:
        await client.start(buyer, id="buyer")
        return await end(client, "buyer")

    expects = ["somebody", 1]
    return Program("race", [buyer], world, script, expects=expects)


@program
def task_group() -> Program:
    """One of a group fails for good; the others are cancelled, deeds under way are waited for."""
    world = World()

    @hf.step
    async def refuse(n: int) -> int:
        await asyncio.sleep(0.1)
        raise ValueError(f"no {n}")

    @hf.step
    async def slow(n: int) -> int:
        await asyncio.sleep(5.0)
        world.look("slow", n)
        return n

    @hf.tool
    async def pay(n: int) -> int:
        receipt = world.act("pay", n)
        await asyncio.sleep(1.0)
        return receipt

    @hf.tool
    async def confess(n: int) -> int:
        return world.act("confess", n)

    async def pay_twice() -> None:
        await pay(1)
        await pay(2)

    @hf.agent
    async def team() -> list[str]:
        said: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pay_twice())
                group.create_task(refuse(1))
                group.create_task(slow(1))
        except* hf.StepFailed as errors:
            await confess(len(errors.exceptions))
            said += [str(error) for error in errors.exceptions]
        return said

    async def script(client: hf.Client) -> object:
        await client.start(team, id="team")
        return await end(client, "team")

    expects = ["step refuse#1: ValueError: no 1"]
    return Program("task_group", [team], world, script, expects=expects)


@program
def timeouts() -> Program:
    """Time runs out for a read and for an attempt; an effect is waited for all the same."""
    world = World(honours={"pay"})

    @hf.step
    async def slow(n: int) -> int:
        await asyncio.sleep(50.0)
        return n

    @hf.step(timeout=0.5, retry=hf.Retry(attempts=2, base_s=0.1, cap_s=0.1))
    async def too_slow(n: int) -> int:
        await asyncio.sleep(5.0)
        return n

    @hf.tool(effect="idempotent")
    async def pay(n: int) -> int:
        await asyncio.sleep(2.0)
        return world.act("pay", n)

    @hf.agent
    async def hasty() -> list[object]:
        said: list[object] = []
        try:
            async with asyncio.timeout(3.0):
                said.append(await slow(1))
        except TimeoutError:
            said.append("too late")
        try:
            said.append(await too_slow(1))
        except hf.StepFailed as error:
            said.append(error.error_type)
        async with asyncio.timeout(1.0):
            said.append(await pay(1))
        return said

    async def script(client: hf.Client) -> object:
        await client.start(hasty, id="hasty")
        return await end(client, "hasty")

    expects = ["too late", "TimeoutError", 1]
    return Program("timeouts", [hasty], world, script, expects=expects)


@program
def sleeps() -> Program:
    """A month of sleep, and a round every twelve days beside it."""
    world = World()

    @hf.tool
    async def remind(n: int) -> int:
        return world.act("remind", n)

    async def go_round(seen: list[int]) -> None:
        while True:
            await asyncio.sleep(12 * 86400)
            seen.append(await remind(len(seen)))

    @hf.agent
    async def sleeper() -> list[object]:
        began = hf.now()
        seen: list[int] = []
        rounds = asyncio.create_task(go_round(seen))
        await asyncio.sleep(30 * 86400)
        rounds.cancel()
        await asyncio.sleep(1.0)
        return [(hf.now() - began).days, seen]

    async def script(client: hf.Client) -> object:
        await client.start(sleeper, id="sleeper")
        return await end(client, "sleeper")

    expects = [30, [1, 1]]
    return Program("sleeps", [sleeper], world, script, expects=expects)


@program
def conversation() -> Program:  # noqa: C901 - a program is told in one piece
    """State over three turns; every message is sent twice under one id."""
    world = World()

    @hf.tool
    async def note(text: str) -> int:
        return world.act("note", text)

    @hf.agent
    async def friend(state: list[str], message: str) -> str:
        state.append(message)
        if message == "fail":
            raise ValueError("I would rather not")
        return f"{len(state)}: {message} {await note(message)}"

    async def script(client: hf.Client) -> object:
        await client.start(friend, "hello", id="friend")
        said: list[object] = []
        for n, text in enumerate(["how are you", "fail", "goodbye"]):
            for _ in range(2):
                await client.message("friend", text, id=f"m{n}")
        for name in ["friend/first", "m0", "m1", "m2"]:
            while True:
                try:
                    said.append(await client.result("friend", message=name))
                except hf.RunParked:
                    await asyncio.sleep(1.0)
                    continue
                except hf.RunFailed as error:
                    said.append(str(error))
                break
        return said

    expects = [
        "1: hello 1",
        "2: how are you 1",
        "run 'friend': ValueError: I would rather not",
        "3: goodbye 1",
    ]
    return Program("conversation", [friend], world, script, expects=expects)


@program
def mailbox() -> Program:
    """Messages of topics, with a timeout that runs out and one that does not."""
    world = World()

    @hf.tool
    async def file(text: str) -> int:
        return world.act("file", text)

    @hf.agent
    async def reader() -> list[object]:
        got: list[object] = []
        try:
            await hf.receive("nothing", str, timeout=3.0)
        except TimeoutError:
            got.append("nothing")
        for _ in range(2):
            got.append(await hf.receive("letters", str, timeout=86400))
            await file(str(got[-1]))
        got.append(await hf.receive("parcels", int))
        return got

    async def script(client: hf.Client) -> object:
        await client.start(reader, id="reader")
        await client.message("reader", "first", topic="letters", id="l1")
        await until(client, "reader", "waiting")
        for _ in range(2):
            await deliver(client, "reader", "second", topic="letters", id="l2")
        await deliver(client, "reader", 3, topic="parcels", id="p1")
        return await end(client, "reader")

    expects = ["nothing", "first", "second", 3]
    return Program("mailbox", [reader], world, script, expects=expects)


async def deliver(client: hf.Client, run: str, message: object, *, topic: str, id: str) -> None:  # noqa: A002 - the word users know
    """Send a message; the run may have taken it and ended, when the script is started over."""
    try:
        await client.message(run, message, topic=topic, id=id)
    except hf.UsageError:
        assert (await client.row(run)).status == "succeeded"


@program
def pen_pals() -> Program:
    """Two runs send each other messages, in order, one of them twice under one id."""
    world = World()

    @hf.tool
    async def stamp(n: int) -> int:
        return world.act("stamp", n)

    @hf.agent
    async def ann() -> list[int]:
        got = []
        for n in range(3):
            hf.send("bob", n, topic="question")
            hf.send("bob", n, topic="again", id=f"again-{n % 2}")
            got.append(await hf.receive("answer", int))
        return got

    @hf.agent
    async def bob() -> list[int]:
        got = []
        for _ in range(3):
            n = await hf.receive("question", int)
            hf.send("ann", n * 2 + await stamp(n), topic="answer")
        for _ in range(2):
            got.append(await hf.receive("again", int))  # noqa: PERF401 - a step is awaited in between
        return got

    async def script(client: hf.Client) -> object:
        await client.start(ann, id="ann")
        await client.start(bob, id="bob")
        return [await end(client, "ann"), await end(client, "bob")]

    expects = [[1, 3, 5], [0, 1]]
    return Program("pen_pals", [ann, bob], world, script, expects=expects)


@program
def family() -> Program:
    """Children side by side, one that fails, one that nobody waits for any more, a grandchild."""
    world = World()

    @hf.tool
    async def build(n: int) -> int:
        return world.act("build", n)

    @hf.agent
    async def grandchild(n: int) -> int:
        return await build(n) + n

    @hf.agent
    async def child(n: int) -> int:
        if n == 2:
            raise ValueError("not two")
        return await grandchild(n)

    @hf.agent
    async def idler() -> int:
        await asyncio.sleep(90 * 86400)
        return 0

    @hf.agent
    async def parent() -> list[object]:
        results = await asyncio.gather(child(1), child(2), child(3), return_exceptions=True)
        said: list[object] = [
            error.error_message if isinstance(error, hf.StepFailed) else error for error in results
        ]
        try:
            async with asyncio.timeout(2.0):
                await idler()
        except TimeoutError:
            said.append("idle")
        return said

    async def script(client: hf.Client) -> object:
        await client.start(parent, id="parent")
        return await end(client, "parent")

    expects = [2, "not two", 4, "idle"]
    return Program("family", [parent, child, grandchild, idler], world, script, expects=expects)


@program
def cancelled_saga() -> Program:
    """Cancelled in the middle: the run cleans up and undoes what it did, the latest first."""
    world = World(honours={"release"})

    async def release(room: str, outcome: int) -> int:
        return world.act("release", room, outcome)

    @hf.tool(effect="once", compensate=release)
    async def reserve(room: str) -> int:
        return world.act("reserve", room)

    @hf.tool
    async def apologise(to: str) -> int:
        return world.act("apologise", to)

    @hf.agent
    async def planner() -> str:
        await reserve("one")
        await reserve("two")
        try:
            await hf.receive("go", str)
        finally:
            await apologise("ann")
        return "planned"

    async def script(client: hf.Client) -> object:
        await client.start(planner, id="planner")
        while (await client.row("planner")).status not in ("waiting", "cancelled"):  # noqa: ASYNC110 - virtual time passes, and nothing tells
            await asyncio.sleep(0.3)
        await client.cancel("planner")
        said = await end(client, "planner")
        return [said, list(world.tally())]

    expects = [
        "RunWasCancelled: run 'planner' was cancelled",
        [
            ("reserve", "one"),
            ("reserve", "two"),
            ("apologise", "ann"),
            ("release", "two", 1),
            ("release", "one", 1),
        ],
    ]
    return Program("cancelled_saga", [planner], world, script, expects=expects)


@program
def failed_saga() -> Program:
    """A deed fails for good: what was done before is undone in reverse, one undo failing first."""
    world = World(honours={"unbook"}, faults={"unbook": ["lost", "cut"]})

    @hf.tool(effect="idempotent")
    async def unbook(seat: str) -> int:
        return world.act("unbook", seat)

    @hf.tool(effect="once", compensate=unbook)
    async def reserve(seat: str) -> int:
        return world.act("reserve", seat)

    @hf.tool
    async def charge(cents: int) -> int:
        raise hf.NotDone(f"{cents} is too much")

    @hf.agent
    async def trip() -> str:
        await asyncio.gather(reserve("a"), reserve("b"))
        await charge(100)
        return "booked"

    async def script(client: hf.Client) -> object:
        await client.start(trip, id="trip")
        said = await end(client, "trip")
        undone = [deed.args for deed in world.deeds if deed.kind == "unbook"]
        return [said, len(undone)]

    expects = ["RunFailed: run 'trip': NotDone: 100 is too much", 2]
    return Program("failed_saga", [trip], world, script, expects=expects)


@program
def sync_agent() -> Program:
    """A plain function as an agent, with plain functions as steps, and a child of the same kind."""
    world = World(honours={"ship"})

    @hf.step
    def look(n: int) -> int:
        world.look("look", n)
        return n * 10

    @hf.tool(effect="idempotent")
    def ship(order: str) -> int:
        return world.act("ship", order)

    @hf.tool(effect="once")
    def mail(to: str) -> int:
        return world.act("mail", to)

    @hf.agent
    def helper(n: int) -> int:
        return look(n) + ship(f"helper {n}")

    @hf.agent
    def plain(order: str) -> list[int]:
        total = sum(look(n) for n in range(3))
        return [total, ship(order), helper(7), mail(order)]

    async def script(client: hf.Client) -> object:
        await client.start(plain, "order-7", id="plain")
        return await end(client, "plain")

    expects = [30, 1, 71, 1]
    return Program("sync_agent", [plain, helper], world, script, expects=expects)


@program
def streaming() -> Program:
    """Parts of a stream are passed on as they come; a deed follows the whole."""
    world = World()

    @hf.step
    async def tokens(n: int):
        for i in range(n):
            await asyncio.sleep(0.1)
            world.look("token", i)
            yield i

    @hf.tool
    async def publish(text: str) -> int:
        return world.act("publish", text)

    @hf.agent
    async def speaker() -> list[object]:
        text = ""
        async for token in tokens(4):
            hf.emit(token)
            text += str(token)
        return [text, await publish(text)]

    async def script(client: hf.Client) -> object:
        await client.start(speaker, id="speaker")
        return await end(client, "speaker")

    expects = ["0123", 1]
    return Program("streaming", [speaker], world, script, expects=expects)


@program
def guarded() -> Program:
    """Version guards, passed on both sides of a step."""
    world = World()

    @hf.tool
    async def audit(n: int) -> int:
        return world.act("audit", n)

    @hf.agent
    async def careful() -> list[int]:
        done = []
        for n in range(2):
            if hf.version_guard(f"audit {n}"):
                done.append(await audit(n))  # noqa: PERF401 - a step is awaited in between
        if hf.version_guard("audit 0"):
            done.append(await audit(9))
        return done

    async def script(client: hf.Client) -> object:
        await client.start(careful, id="careful")
        return await end(client, "careful")

    expects = [1, 1, 1]
    return Program("guarded", [careful], world, script, expects=expects)


@program
def question() -> Program:
    """A person is asked and answers, after days."""
    world = World()

    @hf.tool
    async def pay(cents: int) -> int:
        return world.act("pay", cents)

    @hf.agent
    async def asker() -> list[object]:
        answer = await hf.ask("how much?", int)
        name = await hf.ask("who?")
        return [answer, name, await pay(answer)]

    async def script(client: hf.Client) -> object:
        await client.start(asker, id="asker")
        await until(client, "asker", "waiting")
        await deliver(client, "asker", 500, topic="ask#1", id="answer-1")
        await deliver(client, "asker", "ann", topic="ask#2", id="answer-2")
        return await end(client, "asker")

    expects = [500, "ann", 1]
    return Program("question", [asker], world, script, expects=expects)


@program
def stubborn() -> Program:
    """Retries: budgets that just suffice, and one that does not."""
    world = World(
        honours={"push"},
        faults={"look": ["lost"] * 2, "doomed": ["lost"] * 9, "push": ["cut", "lost"]},
    )

    @hf.step(retry=hf.Retry(attempts=3, base_s=1.0, cap_s=8.0))
    async def look(n: int) -> int:
        await asyncio.sleep(0.1)
        world.look("look", n)
        return n

    @hf.step(retry=hf.Retry(attempts=3, base_s=5.0, cap_s=20.0))
    async def doomed(n: int) -> int:
        return world.look("doomed", n)

    @hf.tool(effect="idempotent", retry=hf.Retry(attempts=4, base_s=0.5, cap_s=2.0))
    async def push(n: int) -> int:
        return world.act("push", n)

    @hf.agent
    async def tries() -> list[object]:
        said: list[object] = [await look(1), await push(1)]
        try:
            await doomed(1)
        except hf.StepFailed as error:
            said.append(error.error_type)
        return said

    async def script(client: hf.Client) -> object:
        await client.start(tries, id="tries")
        return await end(client, "tries")

    expects = [1, 1, "WorldError"]
    return Program("stubborn", [tries], world, script, expects=expects)


@program
def chance() -> Program:
    """Time, chance and identifiers are the same after every crash: deeds depend on them."""
    world = World()

    @hf.tool
    async def draw(name: str, value: str) -> int:  # noqa: ARG001 - it is recorded
        return world.act("draw", name)

    @hf.agent
    async def gambler() -> list[object]:
        values = {"random": str(hf.random()), "uuid": str(hf.uuid()), "run": hf.run_id()}
        receipts = [await draw(name, value) for name, value in values.items()]
        began = hf.now()
        await asyncio.sleep(1.5)
        waited = (hf.now() - began).total_seconds()
        receipts.append(await draw("time", str(waited)))
        return [receipts, hf.random() < 1, waited >= 1.5]

    async def script(client: hf.Client) -> object:
        await client.start(gambler, id="gambler")
        return await end(client, "gambler")

    expects = [[1, 1, 1, 1], True, True]
    return Program("chance", [gambler], world, script, expects=expects)


@program
def crowd() -> Program:
    """Several runs at once, one of them in doubt for a while: nobody holds up anybody."""
    world = World(faults={"stamp": ["cut"]})

    @hf.tool
    async def stamp(n: int) -> int:
        return world.act("stamp", n)

    @hf.step
    async def look(n: int) -> int:
        await asyncio.sleep(0.1 * n)
        world.look("look", n)
        return n

    @hf.agent
    async def worker(n: int) -> list[int]:
        return [await look(n), await stamp(n)]

    async def script(client: hf.Client) -> object:
        for n in range(3):
            await client.start(worker, n, id=f"worker-{n}")
        return [await end(client, f"worker-{n}") for n in range(3)]

    expects = [[0, 1], [1, 1], [2, 1]]
    return Program("crowd", [worker], world, script, expects=expects)


@program
def broken_stream() -> Program:  # noqa: C901 - a program is told in one piece
    """A stream breaks in the middle and is made again, while a deed and a timer go on beside it."""
    world = World(faults={"token": ["", "", "lost"]})

    @hf.step(retry=hf.Retry(attempts=3, base_s=0.5, cap_s=1.0))
    async def tokens(n: int):
        for i in range(n):
            await asyncio.sleep(0.1)
            world.look("token", i)
            yield i

    @hf.tool
    async def publish(text: str) -> int:
        await asyncio.sleep(0.25)
        return world.act("publish", text)

    async def speak() -> str:
        text = ""
        stream = tokens(4)
        while True:
            try:
                async with asyncio.timeout(10_000.0):
                    token = await anext(stream)
            except StopAsyncIteration:
                return text
            hf.emit(token)
            text += str(token)

    async def tick() -> int:
        for _ in range(3):
            await asyncio.sleep(0.15)
        return 3

    @hf.agent
    async def speaker() -> list[object]:
        return [*await asyncio.gather(speak(), publish("beside"), tick()), await publish("behind")]

    async def script(client: hf.Client) -> object:
        await client.start(speaker, id="speaker")
        return await end(client, "speaker")

    expects = ["0123", 1, 3, 1]
    return Program("broken_stream", [speaker], world, script, expects=expects)


@program
def cancelled_in_doubt() -> Program:
    """Cancelled while a deed is in doubt: it is settled first, and what was done is undone."""
    world = World(honours={"refund"}, faults={"charge": ["", "cut"]})

    @hf.tool(effect="idempotent")
    async def refund(cents: int, outcome: int) -> int:
        return world.act("refund", cents, outcome)

    @hf.tool(compensate=refund)
    async def charge(cents: int) -> int:
        return world.act("charge", cents)

    @hf.tool
    async def thank(cents: int) -> int:
        return world.act("thank", cents)

    @hf.agent
    async def cashier() -> int:
        return await charge(1) + await charge(2) + await thank(3)

    async def script(client: hf.Client) -> object:
        await client.start(cashier, id="cashier")
        while not world.count("charge", 2):  # noqa: ASYNC110 - virtual time passes, and nothing tells
            await asyncio.sleep(0.3)
        await until(client, "cashier", "in_doubt")
        await client.cancel("cashier", by="ann")
        return [await end(client, "cashier"), sorted(world.tally())]

    expects = [
        "RunWasCancelled: run 'cashier' was cancelled",
        [("charge", 1), ("charge", 2), ("refund", 1, 1), ("refund", 2, 1)],
    ]
    return Program(
        "cancelled_in_doubt", [cashier], world, script, resolves_after_s=4.0, expects=expects
    )


@program
def cancelled_plain() -> Program:
    """Plain functions are cancelled: one waits for its child, one is idle between turns."""
    world = World(faults={"look": ["lost"] * 50})

    @hf.tool
    def pay(n: int) -> int:
        return world.act("pay", n)

    @hf.step(retry=hf.Retry(attempts=3, base_s=80_000.0, cap_s=80_000.0))
    def look(n: int) -> int:
        return world.look("look", n)

    @hf.agent
    def child(n: int) -> int:
        return look(n)

    @hf.agent
    def parent(n: int) -> int:
        return pay(n) + child(n) + pay(n + 1)

    @hf.agent
    def counter(state: list[int], message: int) -> int:
        state.append(pay(message))
        return len(state)

    async def script(client: hf.Client) -> object:
        await client.start(parent, 1, id="parent")
        await client.start(counter, 10, id="counter")
        await until(client, "counter", "idle")
        while not world.reads:  # noqa: ASYNC110 - virtual time passes, and nothing tells
            await asyncio.sleep(0.3)
        await until(client, "parent", "waiting")
        await until(client, "parent/child#1", "waiting")
        await client.cancel("parent")
        await client.cancel("counter")
        await until(client, "parent/child#1")
        return [await end(client, "parent"), await end(client, "counter")]

    expects = [
        "RunWasCancelled: run 'parent' was cancelled",
        "RunWasCancelled: run 'counter' was cancelled",
    ]
    return Program("cancelled_plain", [parent, child, counter], world, script, expects=expects)


@program
def in_line() -> Program:
    """Two runs in a queue with room for one, their children in there too; one begins late."""
    world = World()

    @hf.tool(effect="idempotent")
    async def ship(order: str) -> int:
        return world.act("ship", order)

    @hf.agent(queue="line")
    async def part(order: str) -> int:
        return await ship(order)

    @hf.agent(queue="line")
    async def whole(order: str) -> list[int]:
        first = await ship(order)
        return [first, await part(f"{order}'s part")]

    async def script(client: hf.Client) -> object:
        await client.limit("line", concurrency=1, per_key=1)
        places = {
            "a": hf.Place(key="ann"),
            "late": hf.Place(delay_s=6),
        }
        for run, place in places.items():
            await client.start(whole, run, id=run, place=place)
        return [await end(client, run) for run in places]

    world.honours = frozenset({"ship"})
    return Program("in_line", [part, whole], world, script, expects=[[1, 1]] * 2)


@program
def held_back() -> Program:
    """A run is paused while it acts, and its queue once it waits; both are resumed."""
    world = World()

    @hf.tool(effect="once", reconcile=lambda n: world.find("pay", n) or hf.NOT_DONE)
    async def pay(n: int) -> int:
        return world.act("pay", n)

    @hf.agent(queue="desk")
    async def cashier() -> object:
        first = await pay(1)
        note = await hf.receive("note", str)
        return [first, await pay(2), note]

    async def script(client: hf.Client) -> object:
        await client.start(cashier, id="cashier")
        await client.pause(run="cashier", by="ann")
        await asyncio.sleep(5)
        await client.resume(run="cashier")
        await until(client, "cashier", "waiting")
        await client.pause(queue="desk", by="bob")
        await client.message("cashier", "go on", topic="note", id="note")
        await asyncio.sleep(5)
        await client.resume(queue="desk")
        return await end(client, "cashier")

    return Program("held_back", [cashier], world, script, expects=[1, 1, "go on"])
