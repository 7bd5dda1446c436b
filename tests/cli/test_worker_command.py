"""`holdfast worker`: every runnable run of the agents in its files is carried on.

*Goal*: it serves what the files declare and says so, names the runs that it cannot serve with the
file that could, and ends when idle if it is to. *Method*: in this process, with --until-idle.
"""


def test_it_carries_on_every_runnable_run(cli):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    cli("run", "desk.py:support", "--id", "s", "--input", '"one"')
    cli("message", "a", "true", "--topic", "ask#1")
    cli("message", "a", '"fine"', "--topic", "note")
    cli("message", "s", '"two"')
    said = cli("worker", "desk.py", "--until-idle")
    assert (said.code, said.out) == (0, "")
    assert "serves approve, deliver, fail, nap, price, support, teller, triage" in said.err
    assert "has ended: idle" in said.err
    assert cli("run", "desk.py:approve", "--id", "a").json == "True fine"
    assert cli("state", "s", "--json").json["state"] == {"said": ["one", "two"]}


def test_json_tells_what_it_served(cli):
    said = cli("worker", "desk.py", "desk.py", "--until-idle", "--lease", "3", "--json")
    facts = said.json
    assert facts["stopped_by"] == "idle"
    assert "price" in facts["agents"]
    assert "lease 3 s" in said.err


def test_runs_of_agents_it_does_not_know_are_named(cli, desk):
    (desk / "parent.py").write_text(
        "import holdfast as hf\nimport desk\n"
        "@hf.agent\nasync def parent() -> int:\n    return await desk.price(1)\n"
    )
    cli("run", "parent.py", "--id", "p")
    said = cli("worker", "parent.py", "--until-idle")
    assert "1 runnable run of agent 'price' (such as 'p/price#1')" in said.err
    assert "Hint: give desk.py too" in said.err


def test_two_agents_of_one_name_are_refused(cli, desk):
    (desk / "twin.py").write_text("import holdfast as hf\n@hf.agent\ndef price(): ...\n")
    said = cli("worker", "desk.py", "twin.py", "--until-idle")
    assert said.code == 2
    assert "desk.py and twin.py both declare an agent 'price'" in said.err


def test_a_file_without_agents_is_refused(cli, desk):
    (desk / "empty.py").write_text("")
    said = cli("worker", "empty.py")
    assert said.code == 2
    assert "empty.py declares no agent" in said.err


def test_a_lease_too_short_is_refused(cli):
    assert cli("worker", "desk.py", "--lease", "0").code == 2
