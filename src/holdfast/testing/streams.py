"""Conformance of what is written and read: streams, the log, rows, messages and transactions."""

import asyncio
import random

from holdfast.core import events as ev
from holdfast.errors import Conflict, StoreError, UsageError
from holdfast.ports import Append, Store, Transaction
from holdfast.testing.harness import (
    EVERYTHING,
    NOTE,
    NOW,
    PATIENCE_S,
    Boom,
    agree,
    append,
    begin,
    everything,
    hold,
    insert,
    letter,
    on_a_store,
    on_two_stores,
    refused,
    transact,
)
from holdfast.testing.script import Script, conversation

__all__ = ["StreamConformance"]


class StreamConformance:
    """Appends and transactions, all or nothing; messages, once and in order; what reads answer."""

    @on_a_store
    async def test_creating_twice_is_once(self, store: Store) -> None:
        script = await begin(store)
        await store.append(script.change(NOTE))
        other = Script.begin("r", agent="agent:other", seed=5)
        again = await store.create(other.new(), [letter("r", "m1"), letter("r", "m1")])
        agree("create", again, expected=False)
        agree("the stream", await store.read("r"), script.events)
        agree("the row", await store.row("r"), script.state.row())
        agree("messages", [m.message.id for m in await store.unread("r")], ["m1"])

    @on_a_store
    async def test_a_run_that_does_not_exist_has_nothing(self, store: Store) -> None:
        answers = (await store.read("r"), await store.row("r"), await store.unread("r"))
        agree("read, row and unread", answers, ([], None, []))
        await refused(Conflict, store.append(Script.begin("r").change(NOTE)))
        agree("everything", await everything(store, "r"), [[], [], [[]]])

    @on_a_store
    async def test_an_append_is_all_or_nothing(self, store: Store) -> None:
        script = await hold(store)
        await store.deliver([letter("r", "m1")])
        [unread] = await store.unread("r")
        child = Script.begin("r/child")

        def whole(script: Script) -> Append:
            return script.change(
                NOTE,
                ev.RunParked("waiting", NOW + 5),
                deliver=[letter("r", "m2", sender="r"), letter("other", "m3")],
                create=[child.new()],
                consume=[unread.n],
                release=True,
            )

        stale = Script(script.events, at=NOW, epoch=1)
        stale.change(NOTE)
        before = await everything(store, "other")
        await refused(Conflict, store.append(whole(stale)))
        await refused(Conflict, transact(store, whole(stale)))
        agree("everything", await everything(store, "other"), before)

        await store.append(whole(script))
        agree("the stream", await store.read("r"), script.events)
        agree("the row", await store.row("r"), script.state.row())
        agree("the child", await store.read("r/child"), child.events)
        agree("the inbox", [m.message.id for m in await store.unread("r")], ["m2"])
        agree("another inbox", [m.message.id for m in await store.unread("other")], ["m3"])
        log = [event for _, event in await store.read_log(0, limit=EVERYTHING)]
        agree("the log", log, [*script.events, *child.events])
        await refused(Conflict, store.append(whole(stale)))

    @on_a_store
    async def test_an_append_counts_when_it_is_called(self, store: Store) -> None:
        script = await hold(store)
        calls = [store.append(script.change(NOTE)) for _ in range(3)]
        await store.append(script.change(NOTE))
        agree("the stream", await store.read("r"), script.events)
        await asyncio.gather(*calls)

    @on_a_store
    async def test_changes_take_effect_in_the_order_of_the_calls(self, store: Store) -> None:
        scripts = [await hold(store, f"r{n}") for n in range(3)]
        ways = [append, append, transact, append, transact, transact, append] * 2
        await asyncio.gather(*(way(store, s.change(NOTE)) for way in ways for s in scripts))
        for script in scripts:
            agree("the stream", await store.read(script.run), script.events)

    @on_a_store
    async def test_what_is_built_on_a_failed_change_fails_too(self, store: Store) -> None:
        script, other = await hold(store, "r1"), await hold(store, "r2")
        changes = [script.change(NOTE) for _ in range(6)]

        def fail(transaction: Transaction) -> None:
            insert(transaction, 1)
            raise Boom

        first, second, third, *rest = changes
        answers = await asyncio.gather(
            *(append(store, change) for change in (first, second)),
            transact(store, third, fail),
            *(append(store, change) for change in rest),
            append(store, other.change(NOTE)),
            return_exceptions=True,
        )
        agree("the first two, and another run's", [*answers[:2], answers[6]], [None] * 3)
        assert isinstance(answers[2], Boom), answers
        assert all(isinstance(answer, StoreError) for answer in answers[3:6]), answers
        agree("the stream", await store.read("r1"), script.events[:3])

    @on_a_store
    async def test_a_transaction_commits_both_or_neither(self, store: Store) -> None:
        script = await hold(store)
        seen: list[list[int]] = []

        def good(transaction: Transaction) -> None:
            seen.append(insert(transaction, script.state.seq))

        def bad(transaction: Transaction) -> None:
            insert(transaction, 99)
            raise Boom

        await transact(store, script.change(NOTE), good)
        failing = Script(script.events, at=NOW, epoch=1).change(
            NOTE, deliver=[letter("r", "m1")], release=True
        )
        before = await everything(store)
        await refused(Boom, transact(store, failing, bad))
        agree("everything", await everything(store), before)
        await transact(store, script.change(NOTE), good)
        agree("the rows that the bodies found", seen, [[], [2]])

    @on_a_store
    async def test_a_body_executes_with_parameters_and_reads_rows(self, store: Store) -> None:
        script = await hold(store)
        answers: list[object] = []

        def body(transaction: Transaction) -> None:
            execute = transaction.execute
            answers.append(execute("CREATE TABLE pairs (k TEXT, v BIGINT)"))
            answers.append(execute("INSERT INTO pairs VALUES (?, ?)", ("ü", 2**53)))
            answers.append(execute("INSERT INTO pairs VALUES (:k, :v)", {"k": "x", "v": None}))
            answers.append(execute("SELECT k, v FROM pairs ORDER BY k"))

        await transact(store, script.change(NOTE), body)
        agree("what the body was answered", answers, [[], [], [], [("x", None), ("ü", 2**53)]])

    @on_a_store
    async def test_a_body_cannot_end_its_transaction(self, store: Store) -> None:
        script = await hold(store)
        kept: list[Transaction] = []

        def body(transaction: Transaction) -> None:
            kept.append(transaction)
            insert(transaction, 1)
            for sql in (
                *(
                    "BEGIN",
                    "COMMIT",
                    "END",
                    "ROLLBACK",
                    "SAVEPOINT x",
                    "RELEASE x",
                    "ROLLBACK TO x",
                ),
                *("/* x */ commit", "-- x\n Rollback ", "ATTACH ':memory:' AS x", "DETACH x"),
            ):
                try:
                    transaction.execute(sql)
                except UsageError:
                    continue
                raise AssertionError(f"the body was let do this: {sql}")

        await transact(store, script.change(NOTE), body)
        found: list[list[int]] = []
        await transact(store, script.change(NOTE), lambda tx: found.append(insert(tx, 2)))
        agree("the rows", found, [[1]])
        try:
            kept[0].execute("INSERT INTO ledger VALUES (3)")
        except UsageError:
            return
        raise AssertionError("a transaction can be used after its body")

    @on_a_store
    async def test_a_body_that_hides_the_end_of_its_transaction_writes_nothing(
        self, store: Store
    ) -> None:
        script = await hold(store)
        await transact(store, script.change(NOTE), lambda tx: insert(tx, 1))
        before = await everything(store)

        def body(transaction: Transaction) -> None:
            insert(transaction, 2)
            try:
                transaction.execute("INSERT OR ROLLBACK INTO ledger (n) VALUES (1)")
            except Exception:  # noqa: BLE001 - hiding it is the fault
                return

        await refused(
            Exception, transact(store, Script(script.events, at=NOW, epoch=1).change(NOTE), body)
        )
        agree("everything", await everything(store), before)
        found: list[list[int]] = []
        await transact(store, script.change(NOTE), lambda tx: found.append(insert(tx, 3)))
        agree("the rows", found, [[1]])

    @on_two_stores
    async def test_a_message_arrives_once_for_ever(self, one: Store, two: Store) -> None:
        script = await hold(one)
        calls = [store.deliver([letter("r", "m1")]) for store in (one, two, one, two)]
        agree("arrivals", sorted(map(sum, await asyncio.gather(*calls))), [0, 0, 0, 1])
        [unread] = await one.unread("r")
        await one.append(script.change(NOTE, consume=[unread.n]))
        letters = [letter("r", "m1"), letter("r", "m2"), letter("r", "m2"), letter("other", "m1")]
        agree("arrivals", await two.deliver(letters), [False, True, False, True])
        await one.append(script.change(NOTE, deliver=letters))
        agree("the inbox", [m.message.id for m in await one.unread("r")], ["m2"])

    @on_a_store
    async def test_a_message_waits_for_its_run(self, store: Store) -> None:
        await store.deliver([letter("r", "m1")])
        waiting = await store.unread("r")
        await begin(store)
        agree("the inbox", await store.unread("r"), waiting)
        agree("the message", [m.message for m in waiting], [letter("r", "m1")])

    @on_a_store
    async def test_messages_keep_the_order_of_their_sender(self, store: Store) -> None:
        senders = [await hold(store, f"r{n}") for n in range(3)]
        calls = [
            store.append(s.change(NOTE, deliver=[letter("to", f"{s.run}.{n}.{m}") for m in "ab"]))
            for n in range(4)
            for s in senders
        ]
        await asyncio.gather(*calls)
        unread = await store.unread("to")
        numbers = [message.n for message in unread]
        agree("the numbers", numbers, sorted(set(numbers)))
        for sender in senders:
            ids = [m.message.id for m in unread if m.message.id.startswith(sender.run)]
            agree(
                "one sender's messages",
                ids,
                [f"{sender.run}.{n}.{m}" for n in range(4) for m in "ab"],
            )
        agree("the later half", await store.unread("to", after=numbers[11]), unread[12:])

    @on_two_stores
    async def test_payloads_come_back_byte_for_byte(self, one: Store, two: Store) -> None:
        noise = random.Random(1).randbytes(200_000)  # noqa: S311 - bytes that do not compress
        payloads = [None, b"", b"null", b'{"a":[', "ü\u2028".encode(), b"\0\xff", noise]
        payloads += [noise[:size] for size in (1, 4_095, 4_096, 4_097, 65_536)]
        payloads += [conversation(turns) for turns in range(60)]
        payloads += [conversation(60, edited=n) for n in (0, 30, 59)]
        script = await hold(one)
        for payload in payloads:
            await one.append(
                script.change((ev.StreamEmitted(1), payload), (ev.StreamEmitted(2), b""))
            )
        agree("the stream", await two.read("r"), script.events)
        letters = [
            letter("to", f"m{n}", payload=payload or b"") for n, payload in enumerate(payloads)
        ]
        await one.deliver(letters)
        agree("the inbox", [m.message for m in await two.unread("to")], letters)

    @on_a_store
    async def test_read_returns_the_part_that_was_asked_for(self, store: Store) -> None:
        script = await hold(store)
        await store.append(script.change(*[NOTE] * 9))
        events = script.events
        agree("all", await store.read("r"), events)
        agree("after", await store.read("r", after=4), events[4:])
        agree("until", await store.read("r", until=4), events[:4])
        agree("between", await store.read("r", after=2, until=7, limit=3), events[2:5])
        agree("beyond", await store.read("r", after=10), [])

    @on_two_stores
    async def test_who_follows_the_log_misses_nothing(self, one: Store, two: Store) -> None:
        scripts = [await hold(one, f"r{n}") for n in range(4)]
        calls = [one.append(s.change(NOTE, NOTE, NOTE)) for _ in range(10) for s in scripts]
        writing = asyncio.gather(*calls)
        log: list[tuple[int, ev.Event]] = []
        while True:
            ended = writing.done()
            page = await two.read_log(log[-1][0] if log else 0, limit=7)
            log += page
            if (ended and not page) or len(log) > sum(len(s.events) for s in scripts):
                break
            await asyncio.sleep(0)
        await writing
        positions = [position for position, _ in log]
        agree("the positions", positions, sorted(set(positions)))
        agree("the log, read at once", await one.read_log(0, limit=EVERYTHING), log)
        for script in scripts:
            agree("its events", [e for _, e in log if e.run == script.run], script.events)

    @on_a_store
    async def test_rows_come_newest_first_and_page_by_page(self, store: Store) -> None:
        names = ["a", "a%", "a_", "ab", "A", "aé", "a😀", "a\uffff", "é", "[a]*", "'\"\\"]
        for n, name in enumerate(names):
            await begin(store, name, at=NOW + n // 4)
        rows = [await store.row(name) for name in names]
        newest = sorted((r for r in rows if r), key=lambda r: (r.created_at, r.run), reverse=True)
        agree("all rows", await store.rows(), newest)
        paged, after = [], None
        for _ in names:
            page = await store.rows(limit=2, after=after)
            paged += page
            after = (page[-1].created_at, page[-1].run) if page else after
        agree("the pages", paged, newest)
        for prefix in ("a", "a%", "a_", "A", "é", "[a]", "a😀"):
            wanted = [row for row in newest if row.run.startswith(prefix)]
            agree(f"rows({prefix=})", await store.rows(prefix=prefix), wanted)
        agree("no such agent", await store.rows(agents=["agent:other"]), [])
        agree("by status", await store.rows(status=["idle", "pending"]), newest)
        agree("no such status", await store.rows(status=["idle"]), [])

    @on_a_store
    async def test_who_waits_for_a_change_is_told(self, store: Store) -> None:
        loop = asyncio.get_running_loop()
        for ready in (False, True):
            await store.changed(0.01, ready=ready)
            waiters = [store.changed(PATIENCE_S, ready=ready) for _ in range(2)]
            waiting = asyncio.gather(*waiters)
            await asyncio.sleep(0)
            began = loop.time()
            script = await hold(store, f"r{ready}")
            await waiting
            await store.append(script.change(release=True))
            await store.changed(PATIENCE_S, ready=ready)
            await store.create(script.new(), [letter(script.run, "m1")])
            await store.changed(PATIENCE_S, ready=ready)
            assert loop.time() - began < PATIENCE_S, "nobody was told, or only one of two"
            await asyncio.gather(*(store.changed(0.01, ready=ready) for _ in range(2)))

    @on_two_stores
    async def test_what_was_written_outlives_the_process(self, one: Store, two: Store) -> None:
        script = await hold(one)
        await one.append(script.change(NOTE, deliver=[letter("r", "m1"), letter("other", "m2")]))
        await transact(one, script.change(NOTE), lambda tx: insert(tx, 1))
        before = await everything(one, "other")
        await one.close()
        agree("everything", await everything(two, "other"), before)
        found: list[list[int]] = []
        await transact(two, script.change(NOTE), lambda tx: found.append(insert(tx, 2)))
        agree("the rows", found, [[1]])
