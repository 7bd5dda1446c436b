"""Group commit on PostgreSQL: many runs in one round trip, and each for itself.

*Goal*: what many runs want to write travels together, and what is wrong with one of them is nobody
else's trouble. *Method*: a proxy counts the rounds; changes that are stale, built on others or
impossible travel with sound ones.
"""

import asyncio
import tempfile
from pathlib import Path

import pytest

from holdfast.core import events as ev
from holdfast.errors import Conflict, Fenced, StoreError, StoreUnavailable, UsageError
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.postgres.transaction import translate
from holdfast.testing.cutting import CuttingProxy
from holdfast.testing.harness import NOTE, agree, begin, claim, hold, letter, transact
from holdfast.testing.script import Script, conversation


@pytest.fixture
def on(database, postgres):
    """Run a coroutine function on a store; ``rounds`` are those that wrote since it was cleared."""

    def run(body, **options):
        rounds = []

        def count(statements):
            if any("holdfast.run SET" in s or "INSERT" in s for s in statements):
                rounds.append(statements)
            return "pass"

        async def main():
            folder = Path(tempfile.mkdtemp(dir=postgres.folder))
            async with CuttingProxy(folder, postgres.folder) as proxy:
                proxy.decide = count
                url = database.replace(str(postgres.folder), str(folder))
                store = await PostgresStore.open(url, lease_clock="caller", **options)
                try:
                    await body(store, rounds)
                finally:
                    await store.close()

        with asyncio.Runner() as runner:
            runner.run(main())

    return run


def changes(rounds):
    return [r for r in rounds if any("want AS" in s for s in r)]


def test_many_runs_share_a_round_trip(on):
    async def body(store, rounds):
        scripts = [await hold(store, f"r{n}") for n in range(50)]
        rounds.clear()
        await asyncio.gather(*(store.append(s.change(NOTE, NOTE)) for s in scripts))
        agree("rounds", len(changes(rounds)), 1)
        for script in scripts:
            agree("the stream", await store.read(script.run), script.events)

    on(body)


def test_changes_of_one_run_that_follow_each_other_travel_together(on):
    async def body(store, rounds):
        script = await hold(store)
        rounds.clear()
        await asyncio.gather(*(store.append(script.change(NOTE)) for _ in range(20)))
        agree("rounds", len(changes(rounds)), 1)
        agree("the stream", await store.read("r"), script.events)

    on(body)


def test_a_stale_change_fails_and_its_neighbours_never_notice(on):
    async def body(store, rounds):
        scripts = [await hold(store, f"r{n}") for n in range(6)]
        stale = Script(scripts[2].events, at=scripts[2].at, epoch=1)
        await store.append(scripts[2].change(NOTE))
        fenced = scripts[4]
        await store.release("ann")
        [claimed] = await claim(store, "bob", run="r4")
        assert claimed.epoch == 2
        doomed = stale.change(NOTE, deliver=[letter("to", "m1")], create=[Script.begin("c").new()])
        zombie = fenced.change(NOTE, deliver=[letter("to", "m2")])
        sound = [s.change(NOTE) for n, s in enumerate(scripts) if n not in (2, 4)]
        rounds.clear()
        calls = [
            store.append(change) for change in [sound[0], doomed, sound[1], zombie, *sound[2:]]
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        agree("rounds", len(changes(rounds)), 1)
        kinds = [type(answer) for answer in answers]
        none = type(None)
        agree("answers", kinds, [none, Conflict, none, Fenced, none, none])
        agree("mail of those that failed", await store.unread("to"), [])
        agree("a run of those that failed", await store.row("c"), None)

    on(body)


def test_a_write_that_the_server_cannot_take_fails_alone(on):
    async def body(store, _):
        script = await hold(store)
        bad = [letter("to", "a\0b"), letter("to", "\ud800")]
        calls = [store.append(script.change(NOTE)), store.create(Script.begin("new").new())]
        calls += [store.append(Script.begin("other").change(NOTE, deliver=[bad[0]]))]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        agree("the sound ones", [*answers[:2]], [None, True])
        assert isinstance(answers[2], StoreError), answers
        for message in bad:
            with pytest.raises(StoreError):
                await store.deliver([message])
        agree("the stream", await store.read("r"), script.events)

    on(body)


def test_a_conversation_is_stored_once_and_in_the_transaction_of_its_events(on, postgres, database):
    async def body(store, rounds):
        script = await hold(store)
        sizes = []
        for turns in (200, 210, 220):
            payload = conversation(turns)
            rounds.clear()
            await store.append(script.change((ev.StreamEmitted(1), payload)))
            keeping = [r for r in rounds if any("INTO holdfast.chunk" in s for s in r)]
            agree("rounds that keep chunks", keeping, changes(rounds))
            [(size,)] = postgres.execute("SELECT sum(length(data)) FROM holdfast.chunk", database)
            sizes.append(int(size))
        assert sizes[2] - sizes[0] < sizes[0] / 5, sizes
        agree("the stream", await store.read("r"), script.events)

    on(body)


def test_a_body_holds_up_its_own_run_alone(on):
    async def body(store, _):
        mine, other = await hold(store, "mine"), await hold(store, "other")
        loop = asyncio.get_running_loop()
        entered, go = asyncio.Event(), asyncio.Event()

        def wait(_):
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

        working = asyncio.ensure_future(transact(store, mine.change(NOTE), wait))
        await entered.wait()
        behind = store.append(mine.change(NOTE))
        await store.append(other.change(NOTE))
        assert not behind.done()
        go.set()
        await asyncio.gather(working, behind)
        agree("the stream", await store.read("mine"), mine.events)

    on(body)


def test_a_closed_store_says_so(on):
    async def body(store, _):
        script = await begin(store)
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.append(script.change(NOTE))
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.row("r")

    on(body)


@pytest.mark.parametrize(
    ("statement", "params", "told"),
    [
        (
            "SELECT '?', \"a?b\", $$?$$, E'\\'?' -- ?\n, ?",
            (1,),
            "SELECT '?', \"a?b\", $$?$$, E'\\'?' -- ?\n, %s",
        ),
        ("SELECT x ?? ? FROM t", ("a",), "SELECT x ? %s FROM t"),
        ("SELECT :a::text, a[1:2], 10 % 3", {"a": 1}, "SELECT %(a)s::text, a[1:2], 10 %% 3"),
        ("SELECT 'a' ? 'b'", (), "SELECT 'a' ? 'b'"),
        ("SELECT 1;", (), "SELECT 1;"),
    ],
)
def test_a_bodys_statements_are_written_as_for_sqlite(statement, params, told):
    assert translate(statement, params) == told


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM holdfast.run",
        'SELECT * FROM "holdfast" . event',
        "SELECT 1; COMMIT",
        "SET search_path = holdfast",
        "/* a */ reset all",
        "SELECT set_config('search_path', 'holdfast', false)",
        "PREPARE TRANSACTION 'x'",
    ],
)
def test_a_body_is_refused_what_is_not_its_own(statement):
    with pytest.raises(UsageError, match="A body"):
        translate(statement, ())
