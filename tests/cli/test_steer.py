"""The commands that steer: message, cancel, doubts, resolve, accept.

*Goal*: what is said reaches the run once, under the name of who said it, and the command says who
carries on; what cannot be is refused and changes nothing. *Method*: in this process; the run is
carried on by `holdfast run` afterwards and asked what came of it.
"""

import getpass

import pytest


@pytest.fixture
def doubt(cli):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "bad"}')
    return cli


def test_messages_bring_a_waiting_run_on(cli):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    said = cli("message", "a", "true", "--topic", "ask#1")
    assert said.code == 0
    assert "holdfast run desk.py:approve --id a, or holdfast worker desk.py" in said.out
    sent = cli("message", "a", '"fine"', "--topic", "note", "--json").json
    assert sent["run"] == "a"
    assert sent["topic"] == "note"
    assert cli("run", "desk.py:approve", "--id", "a").json == "True fine"


def test_a_message_sent_twice_under_one_id_is_one(cli):
    cli("run", "desk.py:support", "--id", "s", "--input", '"one"')
    for _ in range(2):
        assert cli("message", "s", '"two"', "--id", "m1", "--json").json["message"] == "m1"
    assert cli("run", "desk.py:support", "--id", "s").json == "heard 2: 20"


def test_a_message_of_another_topic_than_is_waited_for_is_noted(cli):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    said = cli("message", "a", "true")
    assert said.code == 0
    assert "the run waits for ask#1; this message has topic ''" in said.err


def test_messages_from_a_file(cli, desk):
    cli("run", "desk.py:support", "--id", "s", "--input", '"one"')
    (desk / "m.json").write_text('"from a file"\n')
    cli("message", "s", "@m.json")
    assert cli("run", "desk.py:support", "--id", "s").json == "heard 2: 20"


def test_a_run_that_has_ended_takes_no_messages(cli):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    said = cli("message", "p", "1")
    assert said.code == 2
    assert "run 'p' is over (succeeded); it takes no more messages" in said.err
    again = cli("cancel", "p")
    assert (again.code, again.out) == (0, "run 'p' has succeeded already\n")
    assert cli("cancel", "p", "--json").json["cancelled"] is False


def test_cancel_ends_a_run(cli):
    cli("run", "desk.py:nap", "--id", "n", "--input", "3600")
    assert "is asked to stop" in cli("cancel", "n", "--by", "ann").out
    said = cli("run", "desk.py:nap", "--id", "n", "--json")
    assert said.code == 1
    assert said.json["status"] == "cancelled"
    assert said.err == "run 'n' was cancelled\n"
    events = cli("events", "n", "--json", "--type", "cancel").lines
    assert [event["by"] for event in events] == ["ann"]


def test_doubts_are_listed_with_all_that_a_person_needs(doubt):
    (found,) = doubt("doubts", "--json").json
    assert (found["run"], found["step"], found["effect"]) == ("t", "refund#1", "once")
    assert found["arguments"] == {"order": "bad", "cents": 500}
    assert found["error"]["type"] == "ConnectionResetError"
    assert found["resolve"] == [
        "holdfast resolve t 'refund#1' --happened OUTCOME",
        "holdfast resolve t 'refund#1' --did-not",
    ]
    said = doubt("doubts").out
    for part in ("refund#1", "reset by peer", '"order":"bad"', *found["resolve"]):
        assert part in said


def test_no_doubts(cli):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    assert cli("doubts").out == "no doubts\n"
    assert cli("doubts", "--json").json == []


def test_a_doubt_resolved_as_happened_gives_the_outcome(doubt, deeds):
    said = doubt("resolve", "t", "refund#1", "--happened", '{"cents": 499}')
    assert said.code == 0
    assert f"{getpass.getuser()} says that it happened" in said.out
    assert doubt("doubts", "--json").json[0]["answered"] is True
    assert "answered" in doubt("doubts").out
    done = doubt("run", "desk.py:triage", "--id", "t")
    assert done.json["cents"] == 499
    assert deeds() == ["refund"]


def test_a_doubt_resolved_as_not_done_is_tried_again(doubt, deeds):
    facts = doubt("resolve", "t", "refund#1", "--did-not", "--by", "ann", "--json").json
    assert (facts["verdict"], facts["by"]) == ("did not happen", "ann")
    assert doubt("run", "desk.py:triage", "--id", "t").code == 4  # the shop is still broken
    assert deeds() == ["refund", "refund"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["refund#2", "--did-not"], "in doubt are ['refund#1']"),
        (["refund#1"], "say either --happened JSON or --did-not"),
        (["refund#1", "--did-not", "--happened", "1"], "say either --happened JSON or --did-not"),
        (["refund#1", "--happened", "{"], "--happened: not JSON"),
    ],
)
def test_a_resolution_that_cannot_be_is_refused(doubt, args, said):
    refused = doubt("resolve", "t", *args)
    assert refused.code == 2
    assert said in refused.err
    assert doubt("doubts", "--json").json[0]["answered"] is False


def test_an_outcome_of_the_wrong_type_leaves_the_doubt(doubt):
    doubt("resolve", "t", "refund#1", "--happened", '{"cents": "lots"}')
    said = doubt("run", "desk.py:triage", "--id", "t")
    assert said.code == 4
    assert "$.cents" in said.err
    assert doubt("doubts", "--json").json[0]["step"] == "refund#1"


def test_accept_carries_on_with_the_code_as_it_is(cli, desk):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    refused = cli("accept", "a")
    assert refused.code == 2
    assert "is waiting, not diverged" in refused.err
    source = (desk / "desk.py").read_text()
    (desk / "desk.py").write_text(source.replace("Refund {ticket}?", "Really?"))
    assert cli("run", "desk.py:approve", "--id", "a").code == 4
    said = cli("accept", "a", "--by", "ann")
    assert "ann accepts the code as it is now" in said.out
    cli("message", "a", "true", "--topic", "ask#1")
    cli("message", "a", '"ok"', "--topic", "note")
    assert cli("run", "desk.py:approve", "--id", "a").json == "True ok"
    accepted = cli("show", "a", "--json").json["lineage"]
    assert [d["by"] for d in accepted if "by" in d] == ["ann"]
