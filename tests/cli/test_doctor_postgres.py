"""What `holdfast doctor` says of a store in PostgreSQL.

*Goal*: whoever runs a fleet learns of what would lose events, stop workers or hold up the log, and
what to do. *Method*: the command on a database of the session's server, after each thing was done
to it; settings that a session may not change are taken from what the server would say.
"""

import asyncio
import time

import psycopg
import pytest

from holdfast.cli import doctor_postgres
from holdfast.cli.doctor_postgres import examined

ASKED = doctor_postgres._SETTINGS  # noqa: SLF001 - what the server is asked


def as_if(monkeypatch, **settings):
    """Have the server's settings look like these; those of tests are not safe."""
    safe = {"fsync": "on", "full_page_writes": "on"} | settings
    cases = " ".join(f"WHEN '{name}' THEN $${value}$$" for name, value in safe.items())
    asked = ASKED.replace("name, setting", f"name, CASE name {cases} ELSE setting END")
    monkeypatch.setattr(doctor_postgres, "_SETTINGS", asked)


@pytest.fixture
def doctor(cli, monkeypatch):
    as_if(monkeypatch)

    def look(url, *, code=0):
        said = cli("doctor", "--store", url, "--json")
        assert said.code == code, said.err
        assert said.json["broken"] == (code == 1)
        return {f["what"]: f for f in said.json["findings"]}

    return look


def run(cli, url, agent="price", given="7"):
    return cli("run", f"desk.py:{agent}", "--id", agent, "--input", given, "--store", url).code


def sql(url, statement, *values):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement, values)


def test_a_database_without_a_store_is_no_fault(doctor, database):
    found = doctor(database)
    assert found["store"]["value"] == "none yet"
    assert "PostgreSQL 1" in found["server"]["value"]
    assert {"python", "durability", "standbys", "connections", "this clock"} <= found.keys()
    with psycopg.connect(database) as connection:
        statement = "SELECT count(*) FROM pg_namespace WHERE nspname = 'holdfast'"
        assert connection.execute(statement).fetchone() == (0,), "nothing was made"


def test_a_sound_store(cli, doctor, database):
    assert run(cli, database) == 0
    assert run(cli, database, "triage", '{"ticket": "bad"}') == 4
    found = doctor(database)
    assert found["runs"]["value"] == "1 in doubt, 2 succeeded"
    assert found["workers"]["value"] == "0 alive, holding 0 runs"
    assert found["log"]["verdict"] == "ok"
    assert found["log"]["value"].endswith("events, not signed")
    assert found["last event"]["verdict"] == "ok"
    assert "commits wait for no standby" in found["standbys"]["value"]
    assert "not signed" in cli("doctor", "--store", database).out


def test_lost_workers_and_events_without_position_are_named(cli, doctor, database):
    assert run(cli, database) == 0
    sql(database, "INSERT INTO holdfast.worker (id, expires_at, since) VALUES ('w', 1, 1)")
    later = time.time_ns() // 1000 + 3_600_000_000
    sql(database, "INSERT INTO holdfast.worker (id, expires_at, since) VALUES ('v', %s, 1)", later)
    sql(database, "UPDATE holdfast.run SET worker = 'w'")
    sql(database, "INSERT INTO holdfast.unplaced (run, seq, count) VALUES (1, 9, 3)")
    found = doctor(database)
    assert found["workers"]["value"] == "1 alive, holding 0 runs"
    assert found["lost worker"]["value"].endswith(", which held 1 run")
    assert "3 more without a position" in found["log"]["value"]
    sql(database, "UPDATE holdfast.run SET updated_at = %s", later)
    found = doctor(database, code=1)
    assert "in the future" in found["last event"]["value"]


def test_a_head_that_is_not_the_logs_is_broken(cli, doctor, database, desk, monkeypatch):
    monkeypatch.setenv("HOLDFAST_KEY", str(desk / "key"))
    assert cli("key", "new", "--origin", "example.com/log", "--store", database).code == 0
    assert run(cli, database) == 0
    assert ", signed up to" in doctor(database)["log"]["value"]
    sql(database, "DELETE FROM holdfast.head WHERE size = (SELECT max(size) FROM holdfast.head)")
    found = doctor(database, code=1)
    assert (found["log"]["verdict"], found["log"]["hint"]) == ("broken", "holdfast verify")


def test_what_cannot_be_used_says_why(cli, doctor, database, monkeypatch):
    assert run(cli, database) == 0
    sql(database, "UPDATE holdfast.meta SET version = 1")
    assert "holdfast migrate" in doctor(database, code=1)["schema"]["value"]
    sql(database, "DROP SCHEMA holdfast CASCADE; CREATE SCHEMA holdfast")
    assert "of another program" in doctor(database, code=1)["schema"]["value"]
    found = doctor("postgresql://nobody@127.0.0.1:1/none", code=1)
    assert found["server"]["verdict"] == "broken"
    sql(database, "DROP SCHEMA holdfast")
    monkeypatch.setattr(doctor_postgres, "_SIZE", "SELECT 1 / 0")
    assert run(cli, database) == 0
    found = doctor(database, code=1)
    assert "division by zero" in found["store"]["value"]
    assert found["schema"]["verdict"] == "ok", "what was found before stays"


@pytest.mark.parametrize(
    ("setting", "what", "verdict"),
    [
        (("fsync", "off"), "durability", "broken"),
        (("full_page_writes", "off"), "durability", "broken"),
        (("synchronous_commit", "off"), "durability", "broken"),
        (("synchronous_commit", "on"), "durability", "ok"),
        (("synchronous_standby_names", "ANY 1 (a)"), "standbys", "note"),
        (("max_connections", "10"), "connections", "note"),
    ],
)
def test_settings_that_weaken_the_store_are_named(database, monkeypatch, setting, what, verdict):
    as_if(monkeypatch, **dict([("synchronous_commit", "on"), setting]))
    _, found = asyncio.run(examined(database))
    assert [f.verdict for f in found if f.what == what] == [verdict]


def test_the_server_of_the_tests_is_not_safe(database):
    _, found = asyncio.run(examined(database))
    assert "fsync is off" in str([f.value for f in found if f.verdict == "broken"])


def test_a_clock_that_is_off_is_noted(database, monkeypatch):
    ahead = time.time_ns() + 5_000_000_000
    monkeypatch.setattr(doctor_postgres.time, "time_ns", lambda: ahead)
    _, found = asyncio.run(examined(database))
    (clock,) = [f for f in found if f.what == "this clock"]
    assert (clock.verdict, clock.value[-19:]) == ("note", "ahead of the server's"[-19:])
