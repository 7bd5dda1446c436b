"""`holdfast replay`: the log is fed to the code, and nothing is done.

*Goal*: what was recorded by this code is identical, whatever happened to the run: crashes, doubts,
failed turns, cancellations, accepted divergences; any change of a request, of its arguments, of
their order or of the result is found at its event, with a diff, and exits with 3; no effect happens
and nothing is written. *Method*: runs made by the command; then the code is edited.
"""

import pytest


def identical(cli, run):
    said = cli("replay", run, "--code", "desk.py", "--json")
    assert said.code == 0, said.out
    assert said.json["identical"] is True
    return said.json


def edit(desk, old, new):
    source = (desk / "desk.py").read_text()
    assert source.count(old) == 1
    (desk / "desk.py").write_text(source.replace(old, new))


def test_a_run_is_identical_and_nothing_is_done(cli, desk, deeds):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "o-1"}')
    before = (desk / "holdfast.db").read_bytes()
    facts = identical(cli, "t")
    assert (facts["turns"], facts["events"], facts["steps"]) == (1, 13, 4)
    said = cli("replay", "t")
    assert said.out.startswith("identical: run 't', 1 turn, 13 events, 4 steps in ")
    assert said.err == "code: desk.py\n"
    assert deeds() == ["refund"]
    assert (desk / "holdfast.db").read_bytes() == before
    assert not (desk / "holdfast.db-wal").read_bytes()


def test_turns_of_an_agent_with_state_are_identical(cli):
    for n, word in enumerate(["one", "boom", "two"]):
        if n:
            cli("message", "s", f'"{word}"')
        cli("run", "desk.py:support", "--id", "s", "--input", '"one"')
    assert identical(cli, "s")["turns"] == 3
    cli("cancel", "s")
    assert cli("run", "desk.py:support", "--id", "s").code == 1
    assert identical(cli, "s")["turns"] == 3


@pytest.mark.parametrize(
    ("agent", "given"), [("approve", '"o"'), ("nap", "3600"), ("fail", '"x"'), ("price", "1")]
)
def test_parked_and_failed_runs_are_identical(cli, agent, given):
    cli("run", f"desk.py:{agent}", "--id", "r", "--input", given)
    identical(cli, "r")
    cli("cancel", "r")
    cli("run", f"desk.py:{agent}", "--id", "r")
    identical(cli, "r")


def test_a_run_that_was_in_doubt_is_identical(cli):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "bad"}')
    identical(cli, "t")
    cli("resolve", "t", "refund#1", "--happened", '{"cents": 1}')
    cli("run", "desk.py:triage", "--id", "t")
    identical(cli, "t")


def test_other_arguments_are_found_with_a_diff(cli, desk):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "o-1"}')
    edit(desk, "refund(ticket, cents)", "refund(ticket, cents + 1)")
    said = cli("replay", "t", "--code", "desk.py")
    assert said.code == 3
    assert said.out.splitlines()[0] == "diverged: run 't', turn 1, event 11"
    assert '  -  "cents": 500,' in said.out
    assert '  +  "cents": 501,' in said.out
    facts = cli("replay", "t", "--code", "desk.py", "--json")
    assert facts.code == 3
    assert facts.json["identical"] is False
    assert facts.json["difference"]["seq"] == 11
    assert '+  "cents": 501,' in facts.json["difference"]["diff"]


@pytest.mark.parametrize(
    ("old", "new", "seq"),
    [
        ("worth = await price(7)", "worth = 71", 9),
        ("worth = await price(7)", "worth = await price(8)", 9),
        ("range(3)", "range(2)", 5),
        ("range(3)", "range(4)", 6),
        ("range(3)", "(2, 1, 0)", 3),
        ('"worth": worth', '"worth": 0', 13),
        ("done = await refund(ticket, cents)", "done = {'cents': cents}", 11),
        ("return {'seen'", "raise ValueError('x')\n    return {'seen'", 13),
    ],
)
def test_any_other_request_or_result_is_found_at_its_event(cli, desk, old, new, seq):
    edit(desk, 'return {"seen": sum', "return {'seen': sum")
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "o-1"}')
    identical(cli, "t")
    edit(desk, old, new)
    facts = cli("replay", "t", "--code", "desk.py", "--json")
    assert (facts.code, facts.json["difference"]["seq"]) == (3, seq)


def test_another_state_is_found_in_a_later_turn(cli, desk):
    cli("run", "desk.py:support", "--id", "s", "--input", '"one"')
    cli("message", "s", '"two"')
    cli("run", "desk.py:support", "--id", "s")
    edit(desk, "state.said.append(message)", "state.said.append(message.upper())")
    difference = cli("replay", "s", "--code", "desk.py", "--json").json["difference"]
    assert difference["turn"] == 1
    assert '+      "ONE"' in difference["diff"]


def test_an_accepted_divergence_is_identical_to_the_new_code(cli, desk):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    edit(desk, "Refund {ticket}?", "Really?")
    cli("run", "desk.py:approve", "--id", "a")
    assert cli("replay", "a", "--code", "desk.py").code == 3
    cli("accept", "a")
    cli("run", "desk.py:approve", "--id", "a")
    identical(cli, "a")


def test_a_run_cancelled_while_diverged_is_identical_to_the_code_it_began_with(cli, desk):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    edit(desk, "Refund {ticket}?", "Really?")
    cli("run", "desk.py:approve", "--id", "a")
    cli("cancel", "a")
    assert cli("run", "desk.py:approve", "--id", "a").code == 1
    edit(desk, "Really?", "Refund {ticket}?")
    identical(cli, "a")


def test_the_code_is_looked_for_in_this_directory(cli, desk):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    (desk / "copy.py").write_text((desk / "desk.py").read_text())
    several = cli("replay", "p")
    assert several.code == 2
    assert "these declare it: copy.py, desk.py" in several.err
    (desk / "copy.py").unlink()
    (desk / "desk.py").rename(desk / "moved.txt")
    none = cli("replay", "p")
    assert none.code == 2
    assert "agent 'price'; none is here. Hint: --code FILE" in none.err
    (desk / "other.py").write_text("import holdfast as hf\n@hf.agent\ndef other(): ...\n")
    wrong = cli("replay", "p", "--code", "other.py")
    assert wrong.code == 2
    assert "other.py declares no agent 'price'; it declares other" in wrong.err
