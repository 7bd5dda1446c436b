"""The commands that examine: check, doctor, fsck.

*Goal*: each exits with 1 exactly when it finds something wrong, and says what and where, as text
and as JSON. *Method*: in this process, on sound and on spoilt files.
"""

from pathlib import Path

import apsw
import pytest

from holdfast.cli.doctor import filesystem_of

AGENT = """
import time
import holdfast as hf

@hf.agent
async def late() -> float:
    return time.time()
"""


def test_check_finds_what_a_replay_cannot_repeat(cli, desk):
    (desk / "late.py").write_text(AGENT)
    said = cli("check", "late.py")
    assert said.code == 1
    assert said.out.startswith("late.py:7:12: wall-clock: time.time() in agent 'late'")
    assert "instead: hf.now()" in said.out
    (found,) = cli("check", "desk.py", "late.py", "--json").json
    assert (found["path"], found["line"], found["rule"]) == ("late.py", 7, "wall-clock")


def test_check_is_content_with_the_desk(cli):
    assert cli("check", "desk.py").out == "nothing found in desk.py\n"
    said = cli("check", "desk.py", "--json")
    assert (said.code, said.json) == (0, [])


@pytest.mark.parametrize(
    ("name", "said"), [("absent.py", "No such file"), ("latin.py", "not UTF-8")]
)
def test_check_refuses_what_it_cannot_read(cli, desk, name, said):
    (desk / "latin.py").write_bytes(b"# caf\xe9\n")
    refused = cli("check", name)
    assert refused.code == 2
    assert f"{name}: {said}" in refused.err


def test_doctor_before_there_is_a_store(cli):
    said = cli("doctor")
    assert said.code == 0
    assert "none yet" in said.out
    findings = {f["what"]: f for f in cli("doctor", "--json").json["findings"]}
    assert {"python", "sqlite", "clock", "free disk", "file system", "store"} <= findings.keys()


def test_doctor_with_a_store(cli):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "bad"}')
    facts = cli("doctor", "--json").json
    findings = {f["what"]: f for f in facts["findings"]}
    assert facts["broken"] is False
    assert "synchronous=FULL" in findings["durability"]["value"]
    assert findings["runs"]["value"] == "1 in doubt, 1 succeeded"
    assert (findings["runs"]["verdict"], findings["runs"]["hint"]) == ("note", "holdfast doubts")
    assert findings["workers"]["value"] == "0 alive, holding 0 runs"
    assert findings["log"]["value"].endswith(" events, not signed")


def test_doctor_says_how_far_the_log_is_signed(cli, desk, monkeypatch):
    monkeypatch.setenv("HOLDFAST_KEY", str(desk / "key"))
    assert cli("key", "new", "--origin", "example.com/log").code == 0
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    events = len(cli("events", "p", "--json").lines)
    found = {f["what"]: f for f in cli("doctor", "--json").json["findings"]}["log"]
    assert (found["value"], found["verdict"]) == (f"{events} events, signed up to {events}", "ok")
    change(desk, f"DELETE FROM head WHERE size = {events}")
    found = {f["what"]: f for f in cli("doctor", "--json").json["findings"]}["log"]
    assert (found["verdict"], found["hint"]) == ("broken", "holdfast verify")


def change(desk: Path, statement: str) -> None:
    connection = apsw.Connection(str(desk / "holdfast.db"))
    connection.execute(statement)
    connection.close()


def test_doctor_names_lost_workers_and_clocks_that_went_back(cli, desk):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    change(desk, "INSERT INTO worker (id, expires_at, locked) VALUES ('w-dead', 1, 0)")
    change(desk, "UPDATE run SET worker = 'w-dead', updated_at = updated_at + 3600000000")
    facts = cli("doctor", "--json")
    findings = {f["what"]: f for f in facts.json["findings"]}
    assert facts.code == 1
    assert findings["lost worker"]["value"] == "w-dead, which held 1 run"
    assert findings["last event"]["verdict"] == "broken"
    assert "in the future" in findings["last event"]["value"]


def test_doctor_says_that_the_directory_is_missing(cli):
    said = cli("doctor", "--store", "absent/x.db")
    assert said.code == 1
    assert "does not exist" in said.out


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/x /srv nfs4 rw 0 0
tmpfs /srv/ann/my\\040files tmpfs rw 0 0
short
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        *(("/", "ext4"), ("/srvs", "ext4"), ("/srv", "nfs4"), ("/srv/ann", "nfs4")),
        *(("/srv/ann/my files/x", "tmpfs"),),
    ],
)
def test_the_file_system_of_a_directory_is_known(directory, kind):
    assert filesystem_of(Path(directory), MOUNTS) == kind
    assert filesystem_of(Path(directory), "") == ""


def test_doctor_warns_of_a_network_file_system(cli, desk, monkeypatch):
    monkeypatch.setattr("holdfast.cli.doctor._mounts", lambda: f"server:/x {desk} nfs4 rw 0 0\n")
    findings = {f["what"]: f for f in cli("doctor", "--json").json["findings"]}
    assert (findings["file system"]["value"], findings["file system"]["verdict"]) == (
        "nfs4",
        "broken",
    )
    assert cli("doctor").code == 1


def test_fsck_of_a_sound_store(cli, desk):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "o"}')
    assert cli("fsck").out == "holdfast.db: no problems\n"
    said = cli("fsck", "--json", str(desk / "holdfast.db"))
    assert (said.code, said.json["problems"]) == (0, [])


def test_fsck_names_run_and_event(cli, desk):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "o"}')
    altered = "CAST(replace(leaf, 'refund#1', 'refund#9') AS BLOB)"
    change(desk, f"UPDATE event SET leaf = {altered} WHERE seq = 11")
    said = cli("fsck")
    assert said.code == 1
    assert "t@11" in said.out
    problems = cli("fsck", "--json").json["problems"]
    assert ("t", 11) in {(p["run"], p["seq"]) for p in problems}


def test_fsck_of_what_is_no_file(cli):
    assert "is not a SQLite file" in cli("fsck", "--store", "memory:").err
    assert cli("fsck", "absent.db").code == 1
