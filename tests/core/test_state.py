"""What a run is follows from its events alone, whichever way they are folded.

*Goal*: folding a prefix and then the rest equals folding all; a state restored from the stored row
and the current turn equals the fold; every type of event is applied. *Method*: Hypothesis writes
streams move by move, each allowed where the run stands; one stream written by hand shows each
event's effect.
"""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core import events as ev
from holdfast.core.state import ENDED, RunState, apply, fold, restore
from holdfast.errors import StoreRefused

AT = 1_790_000_000_000_000


class Stream:
    """A stream and its fold so far."""

    def __init__(self):
        self.events = []
        self.state = RunState()

    def add(self, body, *, epoch=1, **changes):
        state = self.state
        facts = {
            "run": "r",
            "seq": state.seq + 1,
            "prev": state.head,
            "at": AT + 1000 * state.seq,
            "epoch": epoch,
            "agent": "agent:a",
            "cause": (),
        }
        event = ev.seal(body, **(facts | changes))
        apply(state, event)
        self.events.append(event)
        return state


def moves(state, fresh):
    """The bodies that a runner might record where the run stands."""
    if state.status in ("pending", "idle"):
        return [ev.TurnStarted(state.turn + 1), ev.RunCancelled(), ev.RunParked("idle")]
    steps = state.open_steps.values()
    return [
        *(ev.StepStarted(f"s#{fresh}", effect) for effect in ("read", "once")),
        *(body for step in steps for body in moves_of(step)),
        ev.TimerFired(1),
        ev.MessageSent("send#1", "other", "t", "m"),
        ev.MessageReceived("receive#1", "t", "m"),
        ev.QuestionAsked("ask#1"),
        ev.ChildStarted("a#1", "r/a#1", "agent:a"),
        ev.ChildFinished("a#1", "r/a#1", ok=True),
        ev.StreamEmitted(1),
        ev.VersionMarked("g"),
        ev.CancelRequested("somebody"),
        ev.RunParked("waiting", AT + 5, "t"),
        ev.RunDiverged(state.seq),
        ev.RunAccepted(state.seq, "somebody"),
        ev.SubjectErased("somebody"),
        ev.PayloadsCollected(AT),
        ev.TurnFinished(state.turn),
        ev.TurnFailed(state.turn),
        ev.RunSucceeded(),
        ev.RunFailed(),
        ev.RunCancelled(),
    ]


def moves_of(step):
    match step.stage:
        case "started":
            yield ev.StepFinished(step.key, step.attempt)
            yield ev.StepFailed(step.key, step.attempt, final=True)
            yield ev.StepFailed(step.key, step.attempt, final=False, retry_at=AT + 9)
            yield ev.StepEmitted(step.key, step.attempt, 1)
            yield ev.StepAbandoned(step.key)
            yield ev.StepDoubted(step.key, step.attempt)
        case "doubted":
            for verdict in ("happened", "not_done", "unknown"):
                yield ev.StepResolved(step.key, step.attempt, verdict, "somebody")
        case "failed" | "not_done":
            yield ev.StepStarted(step.key, step.effect, step.attempt + 1)


@st.composite
def streams(draw):
    stream = Stream()
    stream.add(ev.RunCreated(7, 1, "mother", "a#1"))
    epoch = 1
    for fresh in range(draw(st.integers(0, 40))):
        if stream.state.status in ENDED:
            break
        epoch += draw(st.integers(0, 1))
        stream.add(draw(st.sampled_from(moves(stream.state, fresh))), epoch=epoch)
    return stream


@given(streams(), st.data())
def test_a_prefix_and_then_the_rest_is_all(stream, data):
    cut = data.draw(st.integers(0, len(stream.events)))
    begun = fold(stream.events[:cut])
    assert fold(stream.events[cut:], begun) == fold(stream.events) == stream.state


@given(streams())
def test_a_state_restored_from_row_and_turn_is_the_fold(stream):
    state = RunState()
    for n, event in enumerate(stream.events, start=1):
        apply(state, event)
        row = state.row()
        turn_events = stream.events[max(row.turn_seq, 1) - 1 : n]
        assert restore(row, turn_events) == state


@given(streams(), st.data())
def test_a_row_that_is_not_the_fold_is_refused(stream, data):
    row = stream.state.row()
    events = stream.events[max(row.turn_seq, 1) - 1 :]
    name = data.draw(st.sampled_from(["status", "seq", "head", "wake_at", "updated_at"]))
    other = row._replace(**{name: "x" if isinstance(getattr(row, name), str) else -1})
    with pytest.raises(StoreRefused, match="not the fold"):
        restore(other, events)


def begun():
    stream = Stream()
    stream.add(ev.RunCreated(7, 1, "mother", "a#1"))
    stream.add(ev.TurnStarted(1, "m1"))
    return stream


def test_the_moves_are_of_every_type():
    s = begun()
    for stage in ("started", "failed", "doubted", "not_done"):
        s.add(ev.StepStarted(f"{stage}#1", "once"))
        s.state.open_steps[f"{stage}#1"].stage = stage
    seen = {body.type for body in moves(s.state, 1)} | {"run.created", "turn.started"}
    assert seen == ev.BODIES.keys()


def test_a_run_begins():
    s = Stream()
    assert s.add(ev.RunCreated(7, 1, "mother", "a#1")).status == "pending"
    assert (s.state.run, s.state.agent, s.state.created_at) == ("r", "agent:a", AT)
    assert (s.state.seed, s.state.flags) == (7, 1)
    assert (s.state.parent, s.state.parent_key) == ("mother", "a#1")
    assert s.add(ev.TurnStarted(1, "m1")).status == "running"
    assert (s.state.turn, s.state.turn_seq) == (1, 2)


def test_a_step_goes_through_its_stages():
    s = begun()
    step = s.add(ev.StepStarted("pay#1", "once")).open_steps["pay#1"]
    assert (step.seq, step.attempt, step.attempt_seq, step.stage) == (3, 1, 3, "started")
    s.add(ev.StepFailed("pay#1", 1, final=False, retry_at=AT + 9))
    assert (step.stage, step.failures, step.retry_at) == ("failed", 1, AT + 9)
    s.add(ev.StepStarted("pay#1", "once", 2))
    assert (step.stage, step.attempt, step.seq, step.attempt_seq) == ("started", 2, 3, 5)
    assert (step.failures, step.retry_at) == (1, 0)
    s.add(ev.StepDoubted("pay#1", 2))
    assert (step.stage, step.doubt_seq) == ("doubted", 6)
    s.add(ev.RunParked("in_doubt", AT + 60, "pay#1"))
    assert (s.state.status, s.state.wake_at) == ("in_doubt", AT + 60)
    s.add(ev.StepResolved("pay#1", 2, "unknown", "ann"))
    assert (step.stage, s.state.status) == ("doubted", "in_doubt")
    s.add(ev.StepResolved("pay#1", 2, "not_done", "ann"))
    assert step.stage == "not_done"
    s.add(ev.StepStarted("pay#1", "once", 3))
    assert (s.state.status, s.state.wake_at) == ("running", 0)
    assert s.add(ev.StepFinished("pay#1", 3)).effects_done == ["pay#1"]
    assert not s.state.open_steps


def test_reads_come_and_go():
    s = begun()
    s.add(ev.StepStarted("look#1", "read"))
    assert list(s.add(ev.StepEmitted("look#1", 1, 1)).open_steps) == ["look#1"]
    assert s.add(ev.StepFinished("look#1")).effects_done == []
    s.add(ev.StepStarted("look#2", "read"))
    assert not s.add(ev.StepAbandoned("look#2")).open_steps
    s.add(ev.StepStarted("look#3", "read"))
    assert not s.add(ev.StepFailed("look#3", 1, final=True)).open_steps


@pytest.mark.parametrize(
    "body",
    [
        ev.TimerFired(1),
        ev.MessageSent("send#1", "other", "t", "m"),
        ev.MessageReceived("receive#1", "t", "m"),
        ev.QuestionAsked("ask#1"),
        ev.ChildStarted("a#1", "r/a#1", "agent:a"),
        ev.ChildFinished("a#1", "r/a#1", ok=True),
        ev.StreamEmitted(1),
        ev.VersionMarked("g"),
    ],
    ids=lambda body: body.type,
)
def test_some_events_do_no_more_than_to_wake_a_run(body):
    s = begun()
    s.add(ev.StepStarted("pay#1", "once"))
    before = copy.deepcopy(s.state)
    s.add(ev.RunParked("waiting", AT + 60))
    s.add(body)
    for name in ("seq", "head", "updated_at"):
        setattr(before, name, getattr(s.state, name))
    assert s.state == before


def test_an_accepted_divergence_lets_go_of_the_steps_behind_it():
    s = begun()
    s.add(ev.StepStarted("look#1", "read"))
    diverging = s.add(ev.StepStarted("pay#1", "once")).seq
    assert s.add(ev.RunDiverged(diverging)).diverged_seq == diverging
    assert s.add(ev.RunParked("diverged")).status == "diverged"
    assert s.add(ev.RunAccepted(diverging, "ann")).status == "running"
    assert (s.state.diverged_seq, list(s.state.open_steps)) == (0, ["look#1"])


def test_turns_end_and_begin_anew():
    s = begun()
    s.add(ev.StepStarted("pay#1", "once"))
    s.add(ev.StepFinished("pay#1"))
    s.add(ev.StepStarted("look#1", "read"))
    assert s.add(ev.CancelRequested("ann")).cancelling
    s.add(ev.TurnFinished(1))
    assert (s.state.status, s.state.state_seq, s.state.open_steps) == ("idle", s.state.seq, {})
    s.add(ev.TurnStarted(2, "m2"))
    assert (s.state.turn, s.state.cancelling, s.state.effects_done) == (2, False, [])
    s.add(ev.StepStarted("look#1", "read"))
    kept = s.state.state_seq
    assert s.add(ev.TurnFailed(2)).status == "idle"
    assert (s.state.state_seq, s.state.open_steps) == (kept, {})


@pytest.mark.parametrize("end", [ev.RunSucceeded(), ev.RunFailed(), ev.RunCancelled()])
def test_a_run_ends(end):
    s = begun()
    s.add(ev.StepStarted("look#1", "read"))
    assert s.add(end).status == end.type.removeprefix("run.")
    assert s.state.status in ENDED
    assert not s.state.open_steps


@pytest.mark.parametrize(
    "changes",
    [{"seq": 3}, {"seq": 1}, {"prev": "0" * 64}, {"epoch": 1}],
    ids=["a gap", "the same place", "another predecessor", "an earlier epoch"],
)
def test_what_does_not_follow_is_refused_and_changes_nothing(changes):
    stream = Stream()
    stream.add(ev.RunCreated(7), epoch=2)
    before = copy.deepcopy(stream.state)
    with pytest.raises(StoreRefused, match="cannot follow"):
        stream.add(ev.TurnStarted(1), **({"epoch": 2} | changes))
    assert stream.state == before


def test_an_event_of_a_changed_past_does_not_follow():
    one, other = Stream(), Stream()
    one.add(ev.RunCreated(7))
    other.add(ev.RunCreated(8))
    other.add(ev.TurnStarted(1))
    with pytest.raises(StoreRefused):
        apply(one.state, other.events[1])
