"""What ``reconcile`` returns when it has no outcome to show."""

from typing import Final

__all__ = ["NOT_DONE", "UNKNOWN", "ReconcileVerdict"]


class ReconcileVerdict:
    """One of the two verdicts."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"hf.{self._name}"


NOT_DONE: Final = ReconcileVerdict("NOT_DONE")
"""The effect provably did not happen: another attempt may be made."""

UNKNOWN: Final = ReconcileVerdict("UNKNOWN")
"""It cannot be told: the run parks until a person says."""
