"""One URL apart: the command line on PostgreSQL says what it says on a file.

*Goal*: a run that was started there is shown, explained, listed and carried on as in a file.
*Method*: the commands in this process, on a database of the session's server.
"""

import json

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
