"""`holdfast run`: start or attach, advance, and say what came of it.

*Goal*: the result is JSON on stdout and nothing else is; the exit code tells done, failed, parked
apart; an id is one run whatever is given with it; a parked run says why and how to go on. *Method*:
the command in this process, on agents whose effects leave lines in a file.
"""

import pytest

TICKET = '{"ticket": "o-1"}'


def test_the_result_is_json_on_stdout_and_prints_are_not(cli):
    said = cli("run", "desk.py:triage", "--id", "t", "--input", TICKET)
    assert (said.code, said.json) == (0, {"seen": 30, "worth": 71, "cents": 500})
    assert "refunding o-1" in said.err


def test_what_a_file_prints_while_it_is_loaded_is_not_on_stdout(cli, desk):
    (desk / "loud.py").write_text("from desk import price\nprint('loading')\n")
    said = cli("run", "loud.py:price", "--input", "1")
    assert said.json == 11
    assert said.err.startswith("loading\n")


def test_json_tells_run_and_status_as_well(cli):
    said = cli("run", "desk.py:price", "--id", "p", "--input", "7", "--json")
    assert said.json == {"run": "p", "agent": "price", "status": "succeeded", "result": 71}
    assert not said.err


def test_an_id_given_twice_is_one_run(cli, deeds):
    first = cli("run", "desk.py:triage", "--id", "t", "--input", TICKET)
    again = cli("run", "desk.py:triage", "--id", "t", "--input", TICKET)
    assert again.json == first.json
    assert "another input" not in again.err
    assert cli("run", "desk.py:triage", "--id", "t").json == first.json
    assert deeds() == ["refund"]


def test_another_input_for_a_known_id_does_not_count_and_is_noted(cli, deeds):
    first = cli("run", "desk.py:triage", "--id", "t", "--input", TICKET)
    again = cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "o-2"}')
    assert again.json == first.json
    assert "started with another input, which counts" in again.err
    assert "o-1" in again.err
    assert deeds() == ["refund"]


def test_defaults_spelt_out_are_the_same_input(cli):
    cli("run", "desk.py:triage", "--id", "t", "--input", TICKET)
    again = cli("run", "desk.py:triage", "--id", "t", "--input", '{"cents":500,"ticket":"o-1"}')
    assert "another input" not in again.err


def test_without_an_id_one_is_drawn_and_told(cli):
    said = cli("run", "desk.py:price", "--input", "1")
    drawn = said.err.split()[1]
    assert cli("ls", "--json").lines[0]["run"] == drawn


@pytest.mark.parametrize("given", ["@in.json", "-"])
def test_the_input_may_come_from_a_file_or_stdin(cli, desk, given):
    (desk / "in.json").write_text("\ufeff7\n")
    assert cli("run", "desk.py:price", "--input", given, given="7").json == 71


def test_a_large_input_goes_through(cli):
    said = cli("run", "desk.py:fail", "--input", "-", given='"' + "x" * 10_000_000 + '"')
    assert said.code == 1
    assert "failed: ValueError: xxx" in said.err


def test_an_input_over_the_limit_is_refused(cli, desk):
    (desk / "in.json").write_text('"' + "x" * (64 * 1024 * 1024) + '"')
    said = cli("run", "desk.py:fail", "--input", "@in.json")
    assert said.code == 2
    assert "PAYLOAD_BYTES_MAX" in said.err
    assert cli("ls", "--json").lines == []


def test_a_failed_run_exits_with_1(cli):
    said = cli("run", "desk.py:fail", "--id", "f", "--input", '"no luck"')
    assert (said.code, said.out) == (1, "")
    assert said.err == "run 'f' failed: ValueError: no luck\n"
    said = cli("run", "desk.py:fail", "--id", "f", "--json")
    assert said.code == 1
    assert said.json["status"] == "failed"
    assert said.json["error"]["message"] == "no luck"


def test_a_run_in_doubt_says_which_step_and_what_to_do(cli, deeds):
    said = cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "bad"}')
    assert (said.code, said.out) == (4, "")
    assert "refund#1 (once)" in said.err
    assert "ConnectionResetError: reset by peer" in said.err
    assert "holdfast resolve t 'refund#1' --did-not" in said.err
    doubts = cli("run", "desk.py:triage", "--id", "t", "--json").json["doubts"]
    assert [doubt["step"] for doubt in doubts] == ["refund#1"]
    assert deeds() == ["refund"]


def test_a_run_that_waits_says_for_what(cli):
    said = cli("run", "desk.py:approve", "--id", "a", "--input", '"o-1"')
    assert said.code == 4
    assert "waits for ask#1" in said.err
    assert "it asks: Refund o-1?" in said.err
    assert "holdfast message a JSON --topic 'ask#1'" in said.err
    facts = cli("run", "desk.py:approve", "--id", "a", "--json").json
    assert facts["status"] == "waiting"
    assert facts["questions"][0]["schema"] == {"type": "boolean"}


def test_a_run_that_waits_for_a_time_says_until_when(cli):
    said = cli("run", "desk.py:nap", "--id", "n", "--input", "3600", "--json")
    assert said.code == 4
    assert said.json["wake_at"]
    assert "waits for a timer until" in said.err


def test_a_timer_due_soon_is_waited_for(cli):
    assert cli("run", "desk.py:nap", "--input", "0.05").json == "woke"


def test_a_child_of_an_agent_that_is_not_loaded_is_named(cli, desk):
    (desk / "parent.py").write_text(
        "import holdfast as hf\nimport desk\n"
        "@hf.agent\nasync def parent() -> int:\n    return await desk.price(1)\n"
    )
    said = cli("run", "parent.py", "--id", "p")
    assert said.code == 4
    assert "agent 'price', which is not loaded here" in said.err
    assert cli("worker", "parent.py", "desk.py", "--until-idle").code == 0
    assert cli("run", "parent.py", "--id", "p").json == 11


def test_a_run_that_diverged_shows_the_difference_and_three_ways_out(cli, desk):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o-1"')
    source = (desk / "desk.py").read_text()
    (desk / "desk.py").write_text(source.replace("Refund {ticket}?", "Really refund {ticket}?"))
    said = cli("run", "desk.py:approve", "--id", "a")
    assert said.code == 4
    assert "recorded   question.asked ask#1" in said.err
    assert '+  "question": "Really refund o-1?"' in said.err
    for way in ("hf.version_guard", "holdfast accept a", "holdfast cancel a"):
        assert way in said.err
    shown = cli("show", "a").out
    assert "holds question.asked ask#1" in shown
    assert "asked for question.asked ask#1" in shown
    difference = cli("run", "desk.py:approve", "--id", "a", "--json").json["difference"]
    assert difference["seq"] == 3
    (desk / "desk.py").write_text(source)
    assert "waits for ask#1" in cli("run", "desk.py:approve", "--id", "a").err


def test_an_agent_with_state_answers_its_messages(cli):
    said = cli("run", "desk.py:support", "--id", "s", "--input", '"one"')
    assert (said.code, said.json) == (0, "heard 1: 10")
    cli("message", "s", '"two"')
    assert cli("run", "desk.py:support", "--id", "s").json == "heard 2: 20"
    cli("message", "s", '"boom"')
    said = cli("run", "desk.py:support", "--id", "s")
    assert (said.code, said.out) == (1, "")
    assert "turn 3 of run 's' failed: ValueError: boom" in said.err
    again = cli("run", "desk.py:support", "--id", "s", "--input", '"else"')
    assert "started with another input" in again.err


def test_an_agent_with_state_may_start_without_a_message(cli):
    said = cli("run", "desk.py:support", "--id", "s")
    assert said.code == 0
    assert "waits for its first message" in said.err
    assert cli("run", "desk.py:support", "--id", "s", "--input", '"one"').json == "heard 1: 10"


def test_the_only_agent_of_a_file_needs_no_name(cli, desk):
    (desk / "one.py").write_text(
        "import holdfast as hf\nfrom desk import price\n"
        "@hf.agent(name='only')\nasync def it() -> int:\n    return await price(1)\n"
    )
    assert cli("run", "one.py").json == 11
    assert cli("run", "one.py:only").json == 11
    assert cli("run", "one").json == 11  # as a module


def test_the_store_may_come_from_the_environment(cli, desk, monkeypatch):
    monkeypatch.setenv("HOLDFAST_STORE", "other.db")
    assert cli("run", "desk.py:price", "--id", "p", "--input", "1").code == 0
    assert (desk / "other.db").exists()
    assert not (desk / "holdfast.db").exists()
    monkeypatch.delenv("HOLDFAST_STORE")
    path = f"sqlite://{desk / 'other.db'}"
    assert cli("ls", "--json", "--store", path).lines[0]["run"] == "p"
    waits = cli("run", "desk.py:nap", "--id", "n", "--input", "900", "--store", "other.db")
    assert waits.code == 4


def test_commands_that_are_suggested_name_the_store(cli):
    args = ("run", "desk.py:approve", "--id", "a", "--input", '"o"', "--store", "x y.db")
    assert "--topic 'ask#1' --store 'x y.db'" in cli(*args).err


def test_a_bare_word_behind_the_agent_is_told_where_inputs_go(cli):
    said = cli("run", "desk.py:price", "A 1")
    assert said.code == 2
    assert said.err == ("holdfast: unexpected: A 1. Hint: an input is JSON: --input '\"A 1\"'\n")
    assert cli("run", "desk.py:price", "7").err.endswith("--input 7\n")
