"""What a store that keeps no subjects says of them: there are none, and none can be added."""

from holdfast.errors import UsageError
from holdfast.ports import NewRun
from holdfast.subjects import Erasure, Subject

__all__ = ["NoSubjects"]


class NoSubjects:
    """The part of ``holdfast.ports.Store`` that is about subjects, refused."""

    url: str

    async def subject(self, subject: str) -> Subject | None:  # noqa: ARG002 - there are none
        return None

    async def subjects(self, *, after: str = "", limit: int) -> list[Subject]:  # noqa: ARG002 - there are none
        return []

    async def add_subject(self, subject: Subject) -> Subject:
        raise UsageError(
            f"subject {subject.id!r}: a store such as {self.url} keeps no subjects. Nothing was"
            " written. Hint: a SQLite store does"
        )

    async def erase(self, subject: str, told: NewRun) -> Erasure:  # noqa: ARG002 - refused
        raise UsageError(f"there is no subject {subject!r} in this store: nothing was changed.")
