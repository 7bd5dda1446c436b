"""What all stores do to find the chunks that no payload has any more.

A sweep marks what payloads refer to, then removes what is not marked. Marking takes long and holds
up nobody: payloads are only ever added behind those that are there, so a store marks page by page
and, right before it removes some, in the same transaction, what has come meanwhile.

Chunks are removed in falling order of their numbers. A node has a larger number than the chunks
that it lists, so it never stays behind without them, and whoever finds a chunk finds all below it.
"""

from collections.abc import Generator, Iterable

from holdfast.errors import UsageError
from holdfast.stores.payloads import parse_node, parse_root

__all__ = ["TOGETHER", "Marks", "check_told", "is_operators"]

TOGETHER = 500
"""Chunks that one transaction removes, at most."""


class Marks:
    """The numbers of chunks that payloads have."""

    def __init__(self) -> None:
        self._marked: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._marked

    def mark(self, roots: Iterable[bytes]) -> Generator[list[int], Iterable[bytes], None]:
        """Mark all that some roots lead to; yields numbers of nodes and wants their bytes.

        Whoever breaks off has marked nothing, for a node that is marked is not looked into again.
        """
        levels: dict[int, set[int]] = {}
        for root in roots:
            height, _, numbers = parse_root(root)
            levels.setdefault(height, set()).update(numbers)
        for height in range(max(levels, default=-1), -1, -1):
            fresh = levels.get(height, set()) - self._marked
            if height and fresh:
                below = levels.setdefault(height - 1, set())
                for node in (yield sorted(fresh)):
                    below.update(parse_node(node))
        self._marked.update(*levels.values())

    def unused(self, numbers: Iterable[int]) -> list[int]:
        """Return those that are not marked, at most as many as are removed together."""
        unused = []
        for number in numbers:
            if number not in self._marked:
                unused.append(number)
            if len(unused) == TOGETHER:
                break
        return unused


def is_operators(run: str) -> bool:
    """Tell whether a run is an operator's, whose payloads are never collected."""
    return run.startswith("$")


def check_told(told: str, *, stands: bool) -> None:
    """Check that the run which tells of a collection is there before anything goes.

    Raises:
        UsageError: it is not.
    """
    if not stands:
        raise UsageError(
            f"run {told!r}, which should tell of the collection, is not in the log yet"
        )
