"""`holdfast why`: the walk from an event back to what came in from outside.

*Goal*: the chain is complete, ends at outside inputs, crosses runs, names each event once, and ends
on any graph of causes, circles and gaps included. *Method*: the pure walk on graphs drawn by
Hypothesis and compared with the plain definition; the command on real runs.
"""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.why import why
from holdfast.core import events as ev

PLACES = st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 6))
GRAPHS = st.dictionaries(PLACES, st.lists(PLACES, max_size=3, unique=True), max_size=12)


def event(run, seq, causes):
    """An event caused by these places; by seq alone where it is in the same run."""
    cause = tuple(s if r == run else (r, s) for r, s in causes)
    return ev.seal(
        ev.TimerFired(1),
        run=run,
        seq=seq,
        prev=ev.GENESIS,
        at=1,
        epoch=1,
        agent="agent:x",
        cause=cause,
    )


def walk(graph, run, seq):
    events = {place: event(*place, causes) for place, causes in graph.items()}

    async def fetch(run, seq):
        return events.get((run, seq))

    return asyncio.run(why(fetch, run, seq))


def reached(graph, start):
    found, todo = set(), [start]
    while todo:
        place = todo.pop()
        if place not in found:
            found.add(place)
            todo += graph.get(place, [])
    return found


@given(GRAPHS, PLACES)
def test_it_names_all_that_can_be_reached_and_each_once(graph, start):
    links = walk(graph, *start)
    first = [(link.run, link.seq) for link in links if not link.seen]
    assert first[0] == start
    assert len(first) == len(set(first))
    assert set(first) == reached(graph, start)
    assert {(link.run, link.seq) for link in links if link.missing} == set(first) - graph.keys()
    assert {(link.run, link.seq) for link in links if link.outside} == {
        place for place in first if graph.get(place) == []
    }


@given(GRAPHS, PLACES)
def test_causes_follow_their_event(graph, start):
    """The last one at the event's own depth, all others, each with what follows it, one deeper."""
    links = iter(walk(graph, *start))

    def read(place, depth):
        link = next(links)
        assert (link.run, link.seq, link.depth) == (*place, depth)
        causes = [] if link.seen else graph.get(place, [])
        assert list(link.causes) == causes
        for cause in causes[:-1]:
            read(cause, depth + 1)
        if causes:
            read(causes[-1], depth)

    read(start, 0)
    assert next(links, None) is None


def test_a_chain_of_ten_thousand_is_no_deeper_than_one():
    graph = {("a", n): [("a", n - 1)] if n > 1 else [] for n in range(1, 10_001)}
    links = walk(graph, "a", 10_000)
    assert len(links) == 10_000
    assert {link.depth for link in links} == {0}
    assert links[-1].outside


def test_the_command_follows_a_child_back_to_the_input(cli):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "o-1"}')
    links = cli("why", "t", "--json").json
    types = [(link["run"], link["event"]["type"]) for link in links if "event" in link]
    assert types[0] == ("t", "run.succeeded")
    assert ("t/price#1", "step.finished") in types
    assert ("t", "child.started") in types
    assert [(link["run"], link["seq"]) for link in links if link["outside"]] == [("t", 1)]
    assert not any(link["missing"] for link in links)
    said = cli("why", "t@13").out.splitlines()
    assert len(said) == len(links)
    assert said[-1].endswith("← started from outside")


def test_the_command_follows_a_message_to_its_sender(cli):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    cli("message", "a", "true", "--topic", "ask#1")
    cli("run", "desk.py:approve", "--id", "a")
    cli("run", "desk.py:teller", "--id", "teller", "--input", '"a"')
    cli("run", "desk.py:approve", "--id", "a")
    chain = [(link["run"], link["event"]["type"]) for link in cli("why", "a", "--json").json]
    assert chain[0] == ("a", "run.succeeded")
    assert chain[1] == ("a", "message.received")
    assert chain[2] == ("teller", "message.sent")
    assert chain[-1] == ("teller", "run.created")


def test_a_persons_word_is_an_outside_input(cli):
    cli("run", "desk.py:triage", "--id", "t", "--input", '{"ticket": "bad"}')
    cli("resolve", "t", "refund#1", "--happened", '{"cents": 1}', "--by", "ann")
    cli("run", "desk.py:triage", "--id", "t")
    outside = [link["event"] for link in cli("why", "t", "--json").json if link["outside"]]
    assert [event["type"] for event in outside] == ["step.resolved", "run.created"]
    assert outside[0]["by"] == "ann"
    assert "by ann  ← a word from outside" in cli("why", "t").out
    assert cli("why", "t@99").code == 2
