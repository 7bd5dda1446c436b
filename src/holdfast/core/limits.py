"""Every limit, in one place, with the relations between them asserted beside them.

A limit that is met names itself in the error. Sizes are in bytes, durations in seconds.
"""

from holdfast.errors import UsageError

__all__ = [
    "AGENT_NAME_CHARS_MAX",
    "LEAF_BYTES_MAX",
    "MESSAGE_ID_CHARS_MAX",
    "PAYLOAD_BYTES_MAX",
    "PRIORITY_MAX",
    "QUEUE_KEY_CHARS_MAX",
    "QUEUE_NAME_CHARS_MAX",
    "RUN_ID_CHARS_MAX",
    "SALT_BYTES",
    "SECRETS_KNOWN_MAX",
    "SECRET_CHARS_MIN",
    "SECRET_NAME_CHARS_MAX",
    "STEP_NAME_CHARS_MAX",
    "SUBJECT_CHARS_MAX",
    "TOPIC_CHARS_MAX",
    "check_name",
]

LEAF_BYTES_MAX = 65_535
"""A leaf's length fits the u16 of a tile entry (C2SP tlog-tiles)."""

PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
"""One encoded value: an input, the arguments of a step, a result."""

SALT_BYTES = 32
RUN_ID_CHARS_MAX = 512
AGENT_NAME_CHARS_MAX = 200
STEP_NAME_CHARS_MAX = 300
TOPIC_CHARS_MAX = 300
QUEUE_NAME_CHARS_MAX = 100
QUEUE_KEY_CHARS_MAX = 200
PRIORITY_MAX = 1_000
"""Priorities are between this and its negative."""
MESSAGE_ID_CHARS_MAX = 512
SUBJECT_CHARS_MAX = 200
SECRET_NAME_CHARS_MAX = 64
SECRET_CHARS_MIN = 6
"""A secret's value has to stand out from other text, or it could not be kept out of the log."""
SECRETS_KNOWN_MAX = 2_000
"""Spellings of values that are searched for: those of about 200 secrets, the latest resolved."""

# The longest names together, as 4-byte characters escaped nowhere, must leave room for the rest
# of a leaf.
_NAMES_CHARS_MAX = (
    2 * RUN_ID_CHARS_MAX
    + AGENT_NAME_CHARS_MAX
    + STEP_NAME_CHARS_MAX
    + TOPIC_CHARS_MAX
    + MESSAGE_ID_CHARS_MAX
    + SUBJECT_CHARS_MAX
    + QUEUE_NAME_CHARS_MAX
    + QUEUE_KEY_CHARS_MAX
)
assert _NAMES_CHARS_MAX * 6 + 2_048 <= LEAF_BYTES_MAX
assert PAYLOAD_BYTES_MAX < 2**31


def check_name(what: str, value: str, most: int, *, empty: bool = False) -> None:
    """Check an id or a topic given by a user.

    Raises:
        UsageError: it is empty, too long, reserved or not printable.
    """
    if not isinstance(value, str) or not (empty or value) or len(value) > most:
        raise UsageError(f"{what} {value!r}: expected 1 to {most} characters")
    if value.startswith("$") or not value.isprintable():
        raise UsageError(
            f"{what} {value!r}: it may not begin with '$' or hold unprintable characters"
        )
