"""Any worker carries on any run; nothing depends on a worker's name.

The fault: a run belongs to the executor that began it, and when that one does not come back under
the same name (a new pod, a laptop instead of a server) nobody recovers the run, unless a paid
control plane reassigns it. Reported as dbos-transact-py #804, #453, #716.

*Goal*: a run whose worker is gone is carried on by whoever asks next. *Method*: workers die at each
write, and each successor has a name of its own.
"""

import itertools

import holdfast as hf

done = []


@hf.step
async def look(n: int) -> int:
    done.append(n)
    return n


@hf.agent
async def job() -> int:
    return sum([await look(n) for n in range(5)])


def test_workers_of_any_name_carry_on_where_the_last_one_died(stage):
    s = stage(job)
    s.start(job)
    names = set()
    for write in itertools.cycle([3, 4, 5]):
        worker = s.worker()
        names.add(worker.name)
        if not s.work_until_killed(write, made=True):
            break
    assert s.result() == 10
    assert len(names) > 2
    assert len({event.epoch for event in s.events()}) > 2


def test_a_worker_that_died_in_its_lease_is_waited_for_no_longer_than_that(stage):
    s = stage(job)
    s.start(job)
    assert s.work_until_killed(3, made=False)
    s.clock.tick(-1.5)  # the lease runs on for half a second
    worker = s.worker()
    claims = s.run(
        s.store.claim(worker.name, now=s.clock.now(), lease_us=1, agents=["agent:job"], limit=1)
    )
    assert claims == []
    s.clock.tick(1)
    s.work()
    assert s.result() == 10
