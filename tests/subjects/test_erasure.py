"""What is on behalf of a subject is encrypted, and an erasure leaves nothing of it.

*Goal*: every leaf of such a run names its subject, children and messages inherit it, the store
holds no plaintext at any time; after an erasure neither key nor ciphertext is left, everything
still reads and folds, and nothing that is alive was harmed. *Method*: one family of runs on memory
and on SQLite; all bytes of the file are searched.
"""

import re

import pytest

import holdfast as hf
from holdfast.app import vaulted
from holdfast.core import events as ev
from holdfast.errors import RunConflict, SubjectErased, UsageError, VaultMissing
from holdfast.stores.memory import MemoryStore
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file
from holdfast.stores.vault import Vault
from holdfast.stores.vaulted import VaultedStore
from holdfast.subjects import Subject

WORDS = "Ada Lovelace of St James Square"


@hf.step
async def look(what: str) -> list[dict[str, str]]:
    return [{"said": f"{what} {n}", "pad": "lorem ipsum " * 20} for n in range(30)]


@hf.tool(effect="transactional")
def note(what: str) -> str:
    return what


@hf.agent
async def child(what: str) -> int:
    return len(await look(what))


@hf.agent
async def family(name: str) -> str:
    found = await look(name)
    await child(name)
    hf.send("listener", {"about": name, "all": found}, topic="news")
    hf.send("nobody", f"for {name}", topic="news")
    hf.emit(name)
    return note(f"done for {name}") + str(len(found))


@hf.agent
async def listener() -> str:
    return (await hf.receive("news"))["about"]


@hf.agent
async def chat(state: list[str], message: str) -> int:
    state.append(message)
    return len(state)


@hf.agent
async def waits(name: str) -> str:
    return name + await hf.receive("go", str)


AGENTS = family, child, listener, chat, waits


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def s(request, stage, tmp_path):
    made = stage(*AGENTS)
    inner = MemoryStore()
    if request.param == "sqlite":
        inner = made.run(SqliteStore.open(tmp_path / "holdfast.db"))
    made.store = vaulted(inner)
    if request.param == "postgres":
        url = request.getfixturevalue("database")
        inner = made.run(PostgresStore.open(url, lease_clock="caller"))
        made.store = VaultedStore(inner, Vault(tmp_path / "vault"))
    yield made
    made.run(made.store.close())


def played(s, *, heard_by=""):
    """Play the family on behalf of S beside runs of nobody's, then T's: the listener hears S."""
    s.start(listener, id="listener", subject=heard_by)
    s.start(family, WORDS, id="f", subject="S")
    s.start(chat, "hello", id="plain")
    s.start(chat, f"it is {WORDS}", id="c", subject="S")
    rest(s, "listener", "f", "f/child#1", "c", "plain")
    s.start(family, "somebody else", id="t", subject="T")
    rest(s, "t")
    return s


def rest(s, *runs):
    """Play until `runs` rest: on PostgreSQL one play may end before a message shows."""
    still = set(runs)
    for _ in range(200):
        s.play()
        still = {run for run in still if s.row(run).status not in ("succeeded", "idle")}
        if not still:
            return
    assert not still


def erase(s, subject="S"):
    for run in ("c",):
        s.run(s.client.cancel(run, by="me"))
    s.play()
    return s.run(s.client.erase(subject, basis="Art. 17", by="the officer"))


def raw(s, run):
    return s.run(s.store.inner.read(run))


def test_every_leaf_names_the_subject_and_children_and_messages_inherit_it(s):
    played(s)
    for run in ("f", "f/child#1", "c"):
        assert {e.sub for e in s.events(run)} == {"S"}
        assert all(b'"sub":"S"' in e.leaf for e in s.events(run))
    assert {e.sub for e in s.events("plain")} == {""}
    assert all(b'"sub"' not in e.leaf for e in s.events("plain"))
    subs = [e.sub for e in s.events("listener") if isinstance(e.body, ev.MessageReceived)]
    assert subs == ["S"], "what was taken in keeps the subject that it came with"
    assert s.events("listener")[0].sub == ""
    assert [m.message.sub for m in s.run(s.store.unread("nobody"))] == ["S", "T"]
    assert s.result("f") == f"done for {WORDS}30"
    assert s.result("listener") == WORDS


def test_below_the_vault_nothing_of_a_subject_is_in_the_clear(s):
    played(s)
    for run in ("f", "f/child#1", "c"):
        for event in raw(s, run):
            assert event.salt is None
            assert event.payload is None or event.payload[:1] == b"\x01"
            assert WORDS.encode() not in event.leaf + (event.payload or b"")
    for event, stored in zip(s.events("f"), raw(s, "f"), strict=True):
        if event.committed:
            assert ev.commitment(event.salt, event.payload) == event.committed
            assert stored.leaf == event.leaf
    unread = s.run(s.store.inner.unread("nobody"))
    assert all(m.message.payload[:1] == b"\x01" for m in unread)


def test_the_same_run_with_and_without_a_subject_differs_in_its_leaves_by_sub_alone(s, stage):
    played(s)
    plain = stage(*AGENTS)
    plain.start(family, WORDS, id="f")
    plain.play()
    strip = re.compile(rb'"(?:sub":"S"|(?:at|prev|payload|seed)":[^,}]*),?')
    ours = [strip.sub(b"", e.leaf) for e in s.events("f")]
    assert ours == [strip.sub(b"", e.leaf) for e in plain.events("f")]


def test_an_erasure_leaves_nothing_and_everything_still_reads(s):
    played(s)
    before = {run: s.events(run) for run in ("f", "f/child#1", "listener", "c", "t", "plain")}
    said = erase(s)
    assert (said.runs, said.messages, said.scrubbed) == (4, 1, True)
    for run in ("f", "f/child#1"):
        for event, was in zip(s.events(run), before[run], strict=True):
            assert (event.leaf, event.hash) == (was.leaf, was.hash)
            assert event.payload is None
            assert event.salt is None
            assert not event.sealed
        assert s.row(run).head == before[run][-1].hash
        assert s.state(run).row() == s.row(run)
    assert s.events("t") == before["t"]
    assert s.events("plain") == before["plain"]
    kept = [e.payload is not None for e in s.events("listener")]
    assert kept == [e.payload is not None and e.sub == "" for e in before["listener"]]
    assert [m.message.sub for m in s.run(s.store.unread("nobody"))] == ["T"]
    with pytest.raises(SubjectErased, match=r"erased with subject 'S' \(run \$erased/S\)"):
        s.result("f")


def test_the_log_tells_of_it_in_a_stream_of_its_own(s):
    played(s)
    erase(s)
    told = s.events("$erased/S")
    assert [e.body.type for e in told] == ["run.created", "subject.erased", "run.succeeded"]
    assert told[1].body.subject == "S"
    assert told[1].payload == b'{"basis":"Art. 17","by":"the officer"}'
    assert {e.sub for e in told} == {""}
    assert s.status("$erased/S") == "succeeded"
    log = s.run(s.store.read_log(0, limit=1000))
    assert [e.hash for _, e in log[-3:]] == [e.hash for e in told]


def test_it_is_done_once_and_nothing_is_recorded_under_the_subject_again(s):
    played(s)
    erase(s)
    with pytest.raises(SubjectErased, match="before"):
        s.run(s.client.erase("S", basis="again", by="me"))
    with pytest.raises(SubjectErased, match="give the person a new pseudonym"):
        s.start(family, WORDS, id="again", subject="S")
    with pytest.raises(UsageError, match="there is no subject 'Z'"):
        s.run(s.client.erase("Z", basis="b", by="me"))
    with pytest.raises(UsageError, match="needs a basis"):
        s.run(s.client.erase("T", basis=" ", by="me"))
    s.start(family, "a friend", id="new", subject="S-2")
    s.play()
    assert s.result("new") == "done for a friend30"


def test_another_process_that_still_has_the_key_cannot_record_under_it(s):
    played(s)
    other = VaultedStore(s.store.inner, s.store._vault)  # noqa: SLF001 - as another process has it
    s.run(other.read("f"))
    erase(s)
    with pytest.raises(SubjectErased):
        s.run(s.app(store=other).client.start(family, WORDS, id="late", subject="S"))
    assert s.run(other.row("late")) is None


def test_it_is_refused_while_a_run_is_alive_that_needs_the_payloads(s):
    s.start(waits, WORDS, id="w", subject="S")
    s.play()
    with pytest.raises(UsageError, match=r"'w' \(waiting\)\. Nothing was changed\. Hint: let them"):
        s.run(s.client.erase("S", basis="b", by="me"))
    assert s.run(s.client.row("w")).status == "waiting"
    s.tell("!", run="w", topic="go")
    s.play()
    assert s.result("w") == f"{WORDS}!"
    assert s.run(s.client.erase("S", basis="b", by="me")).runs == 1


def test_it_is_refused_while_a_run_of_nobodys_is_to_get_a_message(s):
    @hf.agent
    async def later() -> str:
        await hf.receive("go")
        return await hf.receive("news")

    s.agents = (*AGENTS, later)
    s.start(later, id="nobody")
    s.start(family, WORDS, id="f", subject="S")
    s.start(listener, id="listener")
    s.play()
    with pytest.raises(UsageError, match=r"'nobody' \(waiting\)"):
        s.run(s.client.erase("S", basis="b", by="me"))


def test_a_run_that_begins_where_an_erased_message_waited_does_not_see_it(s):
    played(s)
    erase(s)

    @hf.agent
    async def news() -> str:
        return await hf.receive("news")

    s.agents = (*AGENTS, news)
    s.start(news, id="nobody")
    s.play()
    assert s.result("nobody") == "for somebody else"


def test_one_id_is_one_subject(s):
    played(s)
    with pytest.raises(RunConflict, match="'f' is not on behalf of subject 'T'"):
        s.start(family, WORDS, id="f", subject="T")
    assert s.start(family, WORDS, id="f", subject="S") == "f"
    with pytest.raises(UsageError, match=r"subject '\$x'"):
        s.start(family, WORDS, id="x", subject="$x")


def test_without_the_vault_a_run_is_sealed_and_left_to_others(s, caplog):
    s.start(waits, WORDS, id="w", subject="S")
    s.start(waits, "plain", id="p")
    s.play()
    blind = VaultedStore(s.store.inner, Vault(None))
    blind._vault.path = "elsewhere"  # noqa: SLF001 - for the message
    before = s.events("w")
    s.tell("!", run="w", topic="go")
    s.tell("!", run="p", topic="go")
    sealed = s.run(blind.read("w"))
    assert [e.sealed for e in sealed] == [bool(e.committed) for e in before]
    assert all(e.payload is None for e in sealed)
    with pytest.raises(VaultMissing, match="another vault"):
        s.run(s.app(store=blind).client.message("w", "x", topic="go"))
    worker = s.worker(store=blind)
    task = s.begin(worker.run())
    s.until(lambda: "subject 'S'" in caplog.text)
    s.until(lambda: worker._blind_until > 0)  # noqa: SLF001 - it claims nothing for a while
    worker.drain()
    s.run(task)
    assert s.events("w") == before, "nothing was recorded"
    assert s.row("w").status == "waiting"
    s.play()
    assert s.result("w") == f"{WORDS}!"
    assert s.result("p") == "plain!"


def test_no_byte_of_the_file_has_a_word_or_the_key_at_any_time(stage, tmp_path):
    s = stage(*AGENTS)
    path = tmp_path / "holdfast.db"
    s.store = vaulted(s.run(SqliteStore.open(path)))
    played(s, heard_by="S")  # what it makes of the message would be its own otherwise
    wrapped = s.run(s.store.subject("S")).key
    assert wrapped in path.read_bytes() + (tmp_path / "holdfast.db-wal").read_bytes()
    erase(s)
    assert s.run(s.store.subject("S")) == Subject("S", b"", "$erased/S")
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir() if not p.name.endswith(".vault")}
    assert set(files) >= {"holdfast.db", "holdfast.db-wal"}
    master = (tmp_path / "holdfast.db.vault").read_text().strip().rpartition("+")[2]
    for name, data in files.items():
        assert wrapped not in data, name
        assert wrapped[12:44] not in data, name
        assert WORDS.encode() not in data
        assert b"Lovelace" not in data
        assert master.encode() not in data
    s.run(s.store.close())
    assert check_file(path) == []


def test_a_conversation_on_behalf_of_a_subject_grows_with_what_is_new(stage, tmp_path):
    @hf.step
    async def model(messages: list[dict[str, str]]) -> str:
        return f"answer {len(messages)} " + "lorem ipsum dolor sit amet " * 8

    @hf.agent
    async def talk(name: str) -> int:
        said = []
        for n in range(120):
            said.append({"role": "user", "content": f"{name} {n} " + "consectetur " * 15})
            said.append({"role": "assistant", "content": await model(said)})
        return len(said)

    sizes = {}
    for subject in ("", "S"):
        path = tmp_path / f"holdfast{subject}.db"
        s = stage(talk)
        s.store = vaulted(s.run(SqliteStore.open(path)))
        s.start(talk, "Ada", subject=subject)
        s.play()
        assert s.result() == 240
        s.run(s.store.close())
        sizes[subject] = path.stat().st_size
    assert sizes["S"] < 5 * sizes[""] < 2_500_000
