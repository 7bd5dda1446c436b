"""Leases: who may advance which run, by the database's clock.

A worker has one heartbeat, for all the runs that it holds. A claim frees the runs of workers whose
heartbeat is over, renews its own, and takes ready runs that nobody else is just taking (``line.py``
says which); each run's epoch rises by one, so that whatever its last holder still sends is fenced.

Invariant: a run is held by a worker that has a heartbeat, for both change in one transaction.
"""

from collections.abc import Sequence

from holdfast.core.state import RunRow
from holdfast.ports import Claim, WorkerInfo
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Round, Row
from holdfast.stores.postgres.line import Line, Tour, lease, reading
from holdfast.stores.postgres.schema import check_version
from holdfast.stores.postgres.values import Texts

__all__ = ["claim", "held", "register", "release", "renew", "workers"]

_TRIES = 3
_WOKEN_MAX = 1_000
"""Runs of one agent whose time has come that one claim takes note of, the earliest first."""


def claim(
    worker: str,
    *,
    now: int,
    lease_now: int | None,
    lease_us: int,
    agents: Sequence[str],
    limit: int,
    run: str,
    family: str,
    tour: Tour,
    url: str,
) -> Flow[list[Claim]]:
    """Free what was lost, renew this worker's lease and lease ready runs.

    ``now`` is what ``wake_at`` is compared with: whoever set a timer had a clock like the caller's.
    Leases go by ``lease_now``, None for the database's clock.
    """
    names = sorted(set(agents))
    asked = Texts(names)
    rounds: Round = [
        (sql.VERSION, ()),
        (sql.FREE_LOST, (lease_now,)),
        (sql.HEARTBEAT, (worker, lease_now, lease_now, lease_us)),
    ]
    leased: list[Row] = []
    if run:
        rounds.append((sql.CLAIM_NAMED, (worker, run, asked)))
        (((version,),), *_, leased) = yield rounds
    else:
        rounds.append((sql.WAKE_UP, (asked, now, _WOKEN_MAX)))
        reads = reading(names, tour, limit=limit, family=family)
        (((version,),), *found) = yield [*rounds, *reads]
        line = Line(found[-len(reads) :], now)
        leased = yield from lease(worker, line, limit)
        tries = 1
        while line.wanted and not leased and tries < _TRIES:
            line, tries = Line((yield reads), now), tries + 1  # others were faster
            leased = yield from lease(worker, line, limit)
        if not family:
            tour.note(names, line.lanes())
    check_version(version, url)  # a lease that was taken by mistake runs out by itself
    return [Claim(RunRow(*row), epoch) for epoch, *row in leased]


def register(worker: str, about: str, *, lease_now: int | None, lease_us: int) -> Flow[None]:
    """Note what a worker says of itself, and renew its lease."""
    heartbeat = (worker, lease_now, lease_now, lease_us)
    yield [(sql.HEARTBEAT, heartbeat), (sql.REGISTER, (about, worker))]


def workers(*, lease_now: int | None) -> Flow[list[WorkerInfo]]:
    """Return the workers whose leases hold."""
    (found,) = yield [(sql.WORKERS, (lease_now,))]
    return [WorkerInfo(*fields) for fields in found]


def renew(worker: str, *, lease_now: int | None, lease_us: int) -> Flow[bool]:
    """Extend a worker's lease; one that has run out is gone, and its runs are free."""
    (renewed,) = yield [(sql.RENEW, (lease_now, lease_us, worker, lease_now))]
    if renewed:
        return True
    yield from release(worker)
    return False


def release(worker: str) -> Flow[None]:
    """Free the runs of a worker and forget it."""
    yield [(sql.FORGET, (worker,)), (sql.FREE, (worker,))]


def held(worker: str) -> Flow[list[Claim]]:
    """Return what a worker holds, behind a write that waits for the standbys."""
    _, found = yield [(sql.MARK, ()), (sql.HELD, (worker,))]
    return [Claim(RunRow(*row), epoch) for epoch, *row in found]
