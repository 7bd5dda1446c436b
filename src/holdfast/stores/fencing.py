"""Who may append where: the refusal that is the same in every store."""

from holdfast.errors import Conflict, Fenced

__all__ = ["check_place"]


def check_place(run: str, epoch: int, expected_seq: int, place: tuple[int, int] | None) -> None:
    """Refuse a change of a run that is at another (epoch, seq), or that there is not.

    Raises:
        Fenced: the run is at another epoch. One above the run's own is no lease of this store's
            either: an older copy of the store was put in its place.
        Conflict: the stream has another length, or there is no such run.
    """
    if place is None:
        raise Conflict(
            f"run {run!r} does not exist; an append expected it to have {expected_seq} events.",
            run=run,
        )
    held, seq = place
    if held != epoch:
        reason = (
            "another worker has claimed the run since."
            if held > epoch
            else "nobody was given that one here. Was an older copy of the store put back? Hint:"
            " stop all its workers before that, and start them behind it."
        )
        raise Fenced(
            f"run {run!r} is at epoch {held}, a worker sent epoch {epoch}: {reason}",
            run=run,
            epoch=held,
        )
    if seq != expected_seq:
        raise Conflict(
            f"run {run!r} has {seq} events, an append expected {expected_seq}.", run=run, seq=seq
        )
