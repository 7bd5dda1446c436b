"""One URL apart: the command line on PostgreSQL says what it says on a file.

*Goal*: a run that was started there is shown, explained, listed and carried on as in a file.
*Method*: the commands in this process, on a database of the session's server.
"""

import json

import psycopg

from holdfast.stores.postgres.schema import VERSION


def test_a_run_on_postgresql_is_shown_as_on_a_file(cli, database):
    there = ("--store", database)
    said = cli("run", "desk.py:deliver", "--id", "a", "--input", '"o1"', *there)
    assert (said.code, said.out) == (0, "\"{'cents': 1} shipped\"\n")
    here = cli("run", "desk.py:deliver", "--id", "a", "--input", '"o1"')
    assert here.out == said.out
    there_and_here = [cli("ls", *where).out.splitlines()[0] for where in (there, ())]
    assert there_and_here[0] == there_and_here[1]
    for command in ("show", "events", "why"):
        assert cli(command, "a", *there).code == 0


def test_a_worker_carries_on_what_was_left(cli, database):
    there = ("--store", database)
    assert cli("run", "desk.py:approve", "--id", "a", "--input", '"t"', *there).code != 0
    assert cli("message", "a", '"yes"', "--topic", "note", *there).code == 0
    said = cli("worker", "desk.py", "--until-idle", *there)
    assert (said.code, "idle" in said.err) == (0, True)


def test_migrate_says_what_it_did(cli, database):
    assert cli("migrate", "--store", database).out == f"made, version {VERSION}\n"
    assert cli("migrate", "--store", database).out == f"version {VERSION}: nothing to do\n"
    told = json.loads(cli("migrate", "--store", database, "--json").out)
    assert (told["found"], told["version"]) == (VERSION, VERSION)
    cli("run", "desk.py:price", "--input", "1")
    assert "nothing to do" in cli("migrate").out


def test_a_database_is_signed_and_verified_as_a_file_is(cli, database, tmp_path, monkeypatch):
    there = ("--store", database)
    assert cli("run", "desk.py:deliver", "--id", "a", "--input", '"o1"', *there).code == 0
    told = cli("verify", *there)
    assert (told.code, "the log is not signed" in told.out) == (1, True)
    told = cli("key", "new", *there)
    assert (told.code, "HOLDFAST_KEY=FILE" in told.err) == (2, True)
    monkeypatch.setenv("HOLDFAST_KEY", str(tmp_path / "log.key"))
    key = cli("key", "new", "--json", *there).json["key"]
    assert cli("run", "desk.py:deliver", "--id", "b", "--input", '"o2"', *there).code == 0
    old = tmp_path / "old"
    old.write_text(cli("checkpoint", *there).out)
    assert cli("run", "desk.py:deliver", "--id", "c", "--input", '"o3"', *there).code == 0
    assert cli("consistency", str(old), *there).out.startswith("old ")
    assert cli("prove", "b", *there).code == 0
    assert cli("verify", "event.json", "--trust", key).code == 0
    told = cli("verify", "--against", str(old), "--trust", key, *there)
    assert (told.code, "in agreement with 1 checkpoint(s)" in told.out) == (0, True)
    assert cli("publish", "log", *there).code == 0
    assert cli("verify", "log", "--against", str(old)).code == 0
    new = cli("key", "rotate", "--json", *there).json["key"]
    assert cli("run", "desk.py:deliver", "--id", "d", "--input", '"o4"', *there).code == 0
    assert cli("verify", database, "--json").json["keys"] == [key, new]
    monkeypatch.delenv("HOLDFAST_KEY")
    refused = cli("run", "desk.py:deliver", "--id", "e", "--input", '"o5"', *there)
    assert (refused.code, "HOLDFAST_KEY is not set" in refused.err) == (1, True)
    assert cli("show", "d", *there).code == 0


def test_an_erasure_in_a_signed_database_verifies(cli, database, tmp_path, monkeypatch):
    there = ("--store", database)
    monkeypatch.setenv("HOLDFAST_KEY", str(tmp_path / "log.key"))
    monkeypatch.setenv("HOLDFAST_VAULT", str(tmp_path / "log.vault"))
    cli("key", "new", *there)
    ran = ("run", "desk.py:deliver", "--input", '"o1"')
    assert cli(*ran, "--id", "a", "--subject", "ann", *there).code == 0
    assert cli(*ran, "--id", "b", *there).code == 0
    said = cli("verify", *there)
    assert (said.code, "sealed" in said.out) == (0, False), "the vault is at hand"
    assert cli("erase", "--subject", "ann", "--basis", "asked", *there).code == 0
    said = cli("verify", *there)
    assert (said.code, "of subject 'ann': erased by event" in said.out) == (0, True)


def test_fsck_takes_a_database(cli, database):
    assert cli("run", "desk.py:price", "--id", "p", "--input", "7", "--store", database).code == 0
    said = cli("fsck", database)
    assert (said.code, said.out) == (0, f"{database}: no problems\n")
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE holdfast.run SET status = 'idle'")
    said = cli("fsck", "--store", database, "--json")
    assert said.code == 1
    assert [(p["run"], p["what"]) for p in said.json["problems"]] == [("p", "row.status")]
