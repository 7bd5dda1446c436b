"""Delays are drawn from the run's seed: the log and the code agree on them for ever.

*Goal*: full jitter within its bounds, the same for the same labels. *Method*: Hypothesis for the
bounds, fixed numbers for what must never change: a frozen run waits as long in every release.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.retry import Retry, backoff_s, draw

SEEDS = st.integers(0, 2**53 - 1)


@given(SEEDS, st.text(), st.integers(2, 10_000))
def test_a_delay_is_within_its_bounds_and_always_the_same(seed, key, attempt):
    wait = backoff_s(attempt, base_s=0.2, cap_s=30.0, seed=seed, key=key)
    assert 0 <= wait < min(30.0, 0.2 * 2 ** min(attempt - 2, 60))
    assert wait == backoff_s(attempt, base_s=0.2, cap_s=30.0, seed=seed, key=key)


@given(SEEDS)
def test_the_first_attempt_never_waits(seed):
    assert backoff_s(1, base_s=0.2, cap_s=30.0, seed=seed) == 0


def test_delays_grow_and_spread():
    bounds = {attempt: min(30.0, 0.2 * 2 ** (attempt - 2)) for attempt in range(2, 14)}
    for attempt, bound in bounds.items():
        waits = [backoff_s(attempt, base_s=0.2, cap_s=30.0, seed=s, key="a#1") for s in range(200)]
        assert max(waits) > 0.9 * bound
        assert min(waits) < 0.1 * bound
        assert abs(sum(waits) / 200 - bound / 2) < 0.1 * bound


def test_steps_that_fail_together_do_not_come_back_together():
    waits = {backoff_s(3, base_s=0.2, cap_s=30.0, seed=7, key=f"a#{n}") for n in range(50)}
    assert len(waits) == 50


def test_the_numbers_of_release_0_1():
    assert draw(7, "random", 1, 1) == 0.7077997038035543
    assert draw(2**53 - 1, "backoff", "refund#1", 2) == 0.23641438041902563
    assert backoff_s(5, base_s=0.2, cap_s=30.0, seed=7, key="refund#1") == 0.6904868606926196


@pytest.mark.parametrize(
    ("attempt", "base", "cap"), [(0, 0.2, 30), (-1, 0.2, 30), (2, 0, 30), (2, 2, 1), (2, -1, 1)]
)
def test_what_is_out_of_range_is_refused(attempt, base, cap):
    with pytest.raises(ValueError, match=f"backoff_s\\({attempt}, base_s={base}, cap_s={cap}"):
        backoff_s(attempt, base_s=base, cap_s=cap, seed=1)


def test_a_retry_policy_must_make_sense():
    with pytest.raises(ValueError, match="at least 1 attempt"):
        Retry(attempts=0)
    with pytest.raises(ValueError, match="0 < base_s <= cap_s"):
        Retry(base_s=5, cap_s=1)
    with pytest.raises(ValueError, match="0 < base_s <= cap_s"):
        Retry(base_s=0)
    assert Retry(attempts=1, base_s=1, cap_s=1)
