"""`holdfast export` and `import`: a run begun in one store ends in another.

*Goal*: what the commands say is what they did, and each wrong use says what is right. *Method*: in
this process, on SQLite files; the run is carried on afterwards and asked what came of it.
"""


def test_a_run_moves_and_ends_elsewhere(cli, deeds):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    cli("run", "desk.py:deliver", "--id", "d", "--input", '"o"')
    said = cli("export", "--all", "runs.export")
    assert said.code == 0
    assert said.out.startswith("runs.export: 2 runs, ")
    assert "1 run of these may yet go on" in said.err
    taken = cli("import", "runs.export", "--store", "other.db")
    assert "2 runs, " in taken.out
    assert cli("import", "runs.export", "--store", "other.db", "--json").json["there"] == 2
    assert cli("fsck", "other.db").code == 0
    assert (
        cli("events", "d", "--json").out == cli("events", "d", "--json", "--store", "other.db").out
    )
    for topic, value in (("ask#1", "true"), ("note", '"fine"')):
        cli("message", "a", value, "--topic", topic, "--store", "other.db")
    ended = cli("run", "desk.py:approve", "--id", "a", "--store", "other.db")
    assert ended.json == "True fine"
    assert len(deeds()) == 2  # those of d, done before it moved


def test_an_export_says_what_it_holds(cli):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "x"}')
    said = cli("export", "t", "f", "--json").json
    assert (said["file"], said["runs"], said["unended"]) == ("f", 2, 0)


def test_wrong_uses_are_told_what_is_right(cli, desk):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    for words, said in (
        (["f"], "say which runs to export"),
        (["p", "f", "--all"], "leave out p"),
        (["q", "f"], "no run's id begins with 'q'"),
        (["p", "desk.py"], "desk.py exists"),
        (["p", "none/f"], "cannot be written"),
    ):
        refused = cli("export", *words)
        assert (refused.code, refused.out) == (2, "")
        assert said in refused.err
    refused = cli("import", "desk.py")
    assert refused.code == 1
    assert "not an export of holdfast" in refused.err
    assert sorted(path.name for path in desk.iterdir() if path.suffix == "") in (
        [],
        ["__pycache__"],
    )
