"""Runs on behalf of subjects move sealed, and what was erased stays erased.

*Goal*: an export holds no word and no data key, opens where the vault is and nowhere else, and
brings nothing back that was erased. *Method*: a run on behalf of somebody, moved between stores.
"""

import gzip
import json

import pytest

import holdfast as hf
from holdfast.app import vaulted
from holdfast.errors import StoreRefused, SubjectErased
from holdfast.runtime.moving import export_runs, import_runs
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file
from holdfast.stores.vault import Vault
from holdfast.stores.vaulted import VaultedStore

WORDS = "Ada Lovelace of St James Square"


@hf.step
async def look(what: str) -> list[str]:
    return [f"{what} {n} " + "lorem ipsum " * 20 for n in range(30)]


@hf.agent
async def job(name: str) -> str:
    hf.send("nobody", f"for {name}", topic="news")
    return (await look(name))[0][:40] + await hf.receive("go")


@pytest.fixture
def s(stage):
    made = stage(job)
    made.store = vaulted(MemoryStore())
    made.start(job, WORDS, id="r", subject="S")
    made.start(job, "plain", id="p")
    made.play()
    return made


def end(s):
    s.tell("!", topic="go")
    s.play()


def export(s, path, *runs):
    s.run(export_runs(s.store, path, runs, now=s.clock.now()))
    return gzip.decompress(path.read_bytes())


def elsewhere(s, tmp_path, name="other.db"):
    """Another store for the same vault."""
    inner = s.run(SqliteStore.open(tmp_path / name, inline=True))
    return VaultedStore(inner, s.store._vault)  # noqa: SLF001 - it is the one


def test_an_export_is_sealed_and_carries_on_where_the_vault_is(s, tmp_path):
    lines = export(s, tmp_path / "x")
    assert WORDS.encode() not in lines
    facts = [json.loads(line) for line in lines.splitlines()]
    assert facts[0]["v"] == 2
    assert [f["subject"] for f in facts if "subject" in f] == ["S"]
    before, unread = s.events("r"), s.run(s.store.unread("nobody"))
    other = elsewhere(s, tmp_path)
    s.run(import_runs(other, tmp_path / "x"))
    s.run(import_runs(other, tmp_path / "x"))
    s.store = other
    assert s.events("r") == before
    assert [m.message for m in s.run(other.unread("nobody"))] == [m.message for m in unread]
    end(s)
    assert s.result("r") == f"{WORDS} 0 lorem !"
    s.run(other.close())
    assert check_file(tmp_path / "other.db") == []


def test_where_the_vault_is_not_it_stays_sealed(s, tmp_path):
    export(s, tmp_path / "x", "r")
    other = VaultedStore(MemoryStore(), Vault(None))
    s.run(import_runs(other, tmp_path / "x"))
    assert all(e.sealed or not e.committed for e in s.run(other.read("r")))


def test_a_file_without_subjects_is_what_it_was(stage, tmp_path):
    s = stage(job)
    s.start(job, "plain", id="p")
    s.play()
    facts = export(s, tmp_path / "x").splitlines()
    assert json.loads(facts[0]) == {"format": "holdfast export", "v": 1}


def test_what_was_erased_moves_with_the_run_that_tells_so(s, tmp_path):
    end(s)
    s.run(s.client.erase("S", basis="b", by="me"))
    export(s, tmp_path / "x", "r")
    other = elsewhere(s, tmp_path)
    s.run(import_runs(other, tmp_path / "x"))
    s.store = other
    assert [e.body.type for e in s.events("$erased/S")][1] == "subject.erased"
    assert all(e.payload is None for e in s.events("r"))
    with pytest.raises(SubjectErased):
        s.start(job, WORDS, id="again", subject="S")
    s.run(other.close())
    assert check_file(tmp_path / "other.db") == []


def test_an_older_export_brings_nothing_back(s, tmp_path):
    export(s, tmp_path / "x")
    end(s)
    s.run(s.client.erase("S", basis="b", by="me"))
    third = elsewhere(s, tmp_path, "third.db")
    export(s, tmp_path / "erased")
    s.run(import_runs(third, tmp_path / "erased"))
    s.store = third
    s.run(import_runs(third, tmp_path / "x"))
    assert all(e.payload is None for e in s.events("r"))
    assert [m.message.sub for m in s.run(third.unread("nobody"))] == [""]
    s.run(third.close())
    assert check_file(tmp_path / "third.db") == []


def test_a_subject_that_is_another_here_refuses_the_import(s, tmp_path):
    export(s, tmp_path / "x")
    other = elsewhere(s, tmp_path)
    s.run(s.app(store=other).client.start(job, "x", id="o", subject="S"))
    with pytest.raises(StoreRefused, match="subject 'S' has another key here"):
        s.run(import_runs(other, tmp_path / "x"))
    assert s.run(other.row("r")) is None


def test_a_payload_that_is_not_sealed_for_its_subject_is_refused(s, tmp_path):
    lines = export(s, tmp_path / "x").splitlines()
    at = next(n for n, line in enumerate(lines) if b'\\"sub\\":\\"S\\"' in line)
    facts = json.loads(lines[at]) | {"payload": "ImNsZWFyIg=="}
    lines[at] = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()
    (tmp_path / "y").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    with pytest.raises(StoreRefused, match="a payload that is not sealed for 'S'"):
        s.run(import_runs(MemoryStore(), tmp_path / "y"))
