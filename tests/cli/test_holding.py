"""`holdfast pause`, `resume` and `queues`: said once, seen everywhere.

*Goal*: what is paused stays where it is and is shown as that; limits are set and listed. *Method*:
in this process, with workers that end when idle.
"""

import asyncio
import time

import pytest

import holdfast as hf


@pytest.mark.parametrize("what", [["a"], ["--agent", "approve"], ["--queue", "default"]])
def test_what_is_paused_is_shown_and_waits_until_it_is_resumed(cli, what):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    said = cli("pause", *what, "--by", "ann")
    assert said.out.endswith("is paused\n")
    assert cli("pause", *what).out.endswith("is paused already\n")
    assert "paused by ann" in cli("ls").out
    assert cli("ls", "--json").lines[0]["paused_by"] == "ann"
    assert "is paused by ann" in cli("show", "a").out
    assert cli("show", "a", "--json").json["paused"]["by"] == "ann"
    for topic, value in (("ask#1", "true"), ("note", '"fine"')):
        cli("message", "a", value, "--topic", topic)
    cli("worker", "desk.py", "--until-idle")
    assert cli("ls", "--json").lines[0]["status"] == "waiting"
    assert cli("resume", *what, "--json").json["changed"] is True
    assert cli("resume", *what, "--json").json["changed"] is False
    cli("worker", "desk.py", "--until-idle")
    assert cli("run", "desk.py:approve", "--id", "a").json == "True fine"
    assert cli("fsck").code == 0


def test_limits_of_queues_are_set_and_listed(cli):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    assert cli("queues").err == "no queues\n"
    said = cli("queues", "mail", "--concurrency", "5", "--per-key", "1", "--rate", "100/min")
    assert "100 in 1 min" in said.out
    cli("pause", "--queue", "mail", "--by", "ann")
    assert "by ann" in cli("queues").out
    [mail] = cli("queues", "--json").lines
    assert mail == {
        "queue": "mail",
        "concurrency": 5,
        "per_key": 1,
        "rate": 100,
        "period_us": 60_000_000,
        "ready": 0,
        "held": 0,
        "paused_by": "ann",
    }
    assert cli("queues", "mail", "--json").lines == [mail], "looking changes nothing"
    assert cli("queues", "other", "--json").lines == []
    [changed] = cli("queues", "mail", "--per-key", "0", "--json").lines
    assert changed == mail | {"per_key": 0}, "what is not said stays"
    [changed] = cli("queues", "mail", "--rate", "0", "--concurrency", "7", "--json").lines
    assert changed == mail | {"per_key": 0, "concurrency": 7, "rate": 0, "period_us": 0}


def test_a_paused_queue_is_listed_though_nothing_stands_in_it(cli):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    cli("pause", "--queue", "mail", "--by", "ann")
    [mail] = cli("queues", "--json").lines
    assert (mail["queue"], mail["ready"], mail["paused_by"]) == ("mail", 0, "ann")


def test_queues_name_the_providers_that_are_left_alone(cli, desk):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")

    async def leave_alone():
        async with hf.App(desk / "holdfast.db") as app:
            now = time.time_ns() // 1000
            await app.store.rest("api.example m", now=now, rest_us=3_600_000_000)
            await app.store.rest("api.example over", now=now, rest_us=1)

    asyncio.run(leave_alone())
    [rest] = cli("queues", "--json").lines
    assert rest.pop("left_s") > 0
    assert rest == {"provider": "api.example m"}
    assert "api.example m has asked to be left alone" in cli("queues").out
    assert cli("queues", "mail", "--json").lines == []


def test_a_run_that_has_ended_is_not_paused(cli):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    refused = cli("pause", "p")
    assert refused.code == 2
    assert "run 'p' has succeeded already" in refused.err
    assert cli("resume", "p", "--json").json["changed"] is False


def test_wrong_uses_are_told_what_is_right(cli):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    for words, said in (
        (["pause"], "one of them"),
        (["pause", "p", "--queue", "q"], "one of them"),
        (["pause", "q"], "no run's id begins with 'q'"),
        (["queues", "--rate", "5/s"], "which queue"),
        (["queues", "q", "--rate", "5"], "expected such as 100/min"),
    ):
        refused = cli(*words)
        assert refused.code == 2
        assert said in refused.err
