"""What must not be recorded is taken out of a payload before its event is sealed.

Two kinds of secrets are looked for: values of an ``hf.Secret`` that this process has resolved, and
whatever the App's *finder* sees. Both are searched for in every string of the payload, names of
fields included, and give way to a mark that says what stood there; the rest of the payload keeps
its bytes. So the log, and whatever is computed from it, never holds them.

A replay compares what the code asks for with what was recorded. A mark stands for any text there:
which secrets were known when the event was sealed is no matter of the code's.

Invariants: without secrets and without a finder a payload is not even looked at; cleaning twice is
cleaning once; numbers, braces and spaces outside strings stay as they are.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable
from typing import TypeAlias
from urllib.parse import quote, quote_plus

from holdfast.core.limits import SECRET_CHARS_MIN, SECRETS_KNOWN_MAX
from holdfast.errors import UsageError

__all__ = ["REDACTED", "Cleaner", "Finder", "find_credentials", "is_secret_field", "same_but_marks"]

Finder: TypeAlias = Callable[[str, str], Iterable[str]]
"""``find(text, field)``: the parts of a text that must not be recorded.

``field`` is the name that the text stands under, empty where there is none.
"""

REDACTED = "[redacted]"
_MARK = r"\[(?:redacted|secret [A-Za-z0-9_.:/-]+)\]"
_MARKS = re.compile(_MARK.encode())
_TEXT_MARKS = re.compile(f"({_MARK})")
_CUTS = re.compile(r"…|\.\.\.")
"""What stands where an excerpt leaves something out."""
_TOKENS = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|(?P<open>[{\[])|(?P<close>[}\]])'
    r"|(?P<number>-?\d[\d.eE+-]*)",
    re.DOTALL,
)

_SECRET_FIELDS = frozenset(
    {
        "accesstoken",
        "apikey",
        "authorization",
        "authtoken",
        "bearertoken",
        "clientsecret",
        "cookie",
        "idtoken",
        "passwd",
        "password",
        "privatekey",
        "refreshtoken",
        "secret",
        "secretaccesskey",
        "secretkey",
        "sessiontoken",
        "token",
        "xapikey",
    }
)
"""Names of JSON fields, letters and digits alone. ``key`` is not one: it is a common word."""

_COMMON_WORDS = frozenset({"cookie", "secret", "token"})
"""Those of them that name other things too: their value must look like a credential."""

_OPAQUE = re.compile(r"[^\s]{16,}")

_CREDENTIALS = re.compile(
    r"""
      \b[prs]k[-_][A-Za-z0-9_-]{16,}                              # OpenAI, Anthropic, Stripe …
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                               # AWS
    | \bgh[opsur]_[A-Za-z0-9]{30,} | \bgithub_pat_[A-Za-z0-9_]{22,} | \bglpat-[A-Za-z0-9_-]{20,}
    | \bxox[abeoprs]-[A-Za-z0-9-]{10,}                            # Slack
    | \bAIza[0-9A-Za-z_-]{35} | \bya29\.[0-9A-Za-z_-]{20,}        # Google
    | \bhf_[A-Za-z0-9]{30,} | \bnpm_[A-Za-z0-9]{36} | \bpypi-[A-Za-z0-9_-]{32,}
    | \bSG\.[\w-]{16,}\.[\w-]{16,}                                # SendGrid
    | \b\d{8,10}:[A-Za-z0-9_-]{35}\b                              # Telegram
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                           # JWT
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | ://[^/\s:@]*:(?P<userinfo>[^/\s@]+)@
    | \b(?i:bearer|basic)\s+(?P<header>[\w.~+/=-]{16,})
    | (?i:passw(?:or)?d|passwd|api[_-]?key|(?:access|auth|refresh|id|session|bearer)[_-]?token
        |client[_-]?secret|secret[_-]?(?:access[_-]?)?key|private[_-]?key)
      (?:\\*["'])?\s*[:=]\s*(?:\\*["'])?(?P<value>[^\s"'\\,;&}]{4,})
    """,
    re.VERBOSE | re.DOTALL,
)


def find_credentials(text: str, field: str) -> list[str]:
    """Return what looks like a credential: the stock finder, for ``hf.App(redact=…)``.

    That is: keys and tokens of well-known forms, private keys, passwords in URLs, ``Bearer …``,
    values behind names such as ``api_key=``, and the text of a field that is called so.

    Args:
        text: Any text.
        field: The name that it stands under, such as ``password``.
    """
    if field and is_secret_field(field):
        plain = "".join(c for c in field.lower() if c.isalnum())
        if plain not in _COMMON_WORDS or _OPAQUE.fullmatch(text):
            return [text]
    return [
        found["userinfo"] or found["header"] or found["value"] or found[0]
        for found in _CREDENTIALS.finditer(text)
    ]


def is_secret_field(name: str) -> bool:
    """Tell whether a field of this name is likely to hold a credential."""
    return "".join(c for c in name.lower() if c.isalnum()) in _SECRET_FIELDS


class Cleaner:
    """Takes secrets out of payloads and texts.

    Args:
        find: The App's finder, None for none.
    """

    def __init__(self, find: Finder | None = None) -> None:
        self._find = find
        self._known: dict[str, str] = {}
        """Value of a secret, in one of its spellings → its mark."""
        self._glance: re.Pattern[bytes] | None = None
        """How the spellings begin and end: what a payload is glanced over for."""

    def learn(self, name: str, value: str) -> None:
        """Take note of a secret's value, which must not be recorded from now on.

        Raises:
            UsageError: it is so short that it would be found everywhere.
        """
        if len(value) < SECRET_CHARS_MIN:
            raise UsageError(
                f"secret {name!r} has {len(value)} characters; at least {SECRET_CHARS_MIN} are"
                " needed to tell it from other text, and so to keep it out of the log."
            )
        if value in self._known:
            return
        known = dict(self._known)  # another thread may be reading the old one
        while len(known) > SECRETS_KNOWN_MAX:
            del known[next(iter(known))]
        known.update(dict.fromkeys(_spellings(value), f"[secret {name}]"))
        n = SECRET_CHARS_MIN
        edges = {edge for text in known for edge in (text[:n], text[-n:])}
        # In a payload they are escaped as JSON has it; what of that is surely there will do.
        raw = {json.dumps(edge, ensure_ascii=False)[1:-1] for edge in edges}
        glance = b"|".join(sorted(re.escape(text.encode("utf-8", "replace")) for text in raw))
        self._known = known
        self._glance = re.compile(glance)

    def clean(self, payload: bytes) -> bytes:
        """Return a payload, which is JSON, without the secrets in it."""
        if self._find is None and (self._glance is None or not self._glance.search(payload)):
            return payload
        cleaned = _Strings(self._clean).replace(payload.decode())
        return payload if cleaned is None else cleaned.encode("utf-8", "replace")

    def text(self, text: str) -> str:
        """Return a text, such as an error's, without the secrets in it."""
        return self._clean(text, "")

    def name(self, name: str) -> str:
        """Return a step's name without what the finder sees in it.

        Values of secrets are no part of a name: the agent's code, which makes it, has none.
        """
        return name if self._find is None else self._without_found(name, "")

    def _clean(self, text: str, field: str) -> str:
        if self._known:
            text = _outside_marks(text, self._without_known)
        return text if self._find is None else self._without_found(text, field)

    def _without_known(self, text: str) -> str:
        for spelling in sorted(self._known, key=len, reverse=True):
            text = text.replace(spelling, self._known[spelling])
        return self._without_pieces(text) if _CUTS.search(text) else text

    def _without_pieces(self, text: str) -> str:
        """Take out the beginning of a secret before a cut in an excerpt, and the end behind one."""
        least = SECRET_CHARS_MIN
        for spelling, mark in self._known.items():
            head, tail = re.escape(spelling[:least]), re.escape(spelling[-least:])

            def before(found: re.Match[str], spelling: str = spelling, mark: str = mark) -> str:
                return mark if spelling.startswith(found[0]) else found[0]

            def behind(found: re.Match[str], spelling: str = spelling, mark: str = mark) -> str:
                return mark if spelling.endswith(found[0]) else found[0]

            text = re.sub(rf"{head}.*?(?=…|\.\.\.)", before, text, flags=re.DOTALL)
            text = re.sub(rf"(?:(?<=…)|(?<=\.\.\.)).*?{tail}", behind, text, flags=re.DOTALL)
        return text

    def _without_found(self, text: str, field: str) -> str:
        assert self._find is not None
        found = sorted({part for part in self._find(text, field) if part}, key=len, reverse=True)

        def without(piece: str) -> str:
            for part in found:
                piece = piece.replace(part, REDACTED)
            return piece

        return _outside_marks(text, without) if found else text


def _outside_marks(text: str, replace: Callable[[str], str]) -> str:
    """Apply ``replace`` to what stands between the marks."""
    pieces = _TEXT_MARKS.split(text)
    return "".join(piece if n % 2 else replace(piece) for n, piece in enumerate(pieces))


class _Strings:
    """Replaces the strings of a JSON text, each told the field that it stands under."""

    def __init__(self, clean: Callable[[str, str], str]) -> None:
        self._clean = clean
        self._field = ""
        self._outer: list[str] = []
        self._changed = False

    def replace(self, text: str) -> str | None:
        """Return the text with its strings replaced, None when they are what they were."""
        replaced = _TOKENS.sub(self._token, text)
        return replaced if self._changed else None

    def _token(self, found: re.Match[str]) -> str:
        whole = found[0]
        if found["open"]:
            self._outer.append(self._field)
        elif found["close"]:
            self._field = self._outer.pop() if self._outer else ""
        elif found["number"]:
            cleaned = self._clean(whole, "")
            if cleaned != whole:
                self._changed = True
                return json.dumps(cleaned, ensure_ascii=False)
        else:
            name = found["colon"] is not None
            said = json.loads(found["text"], strict=False)
            cleaned = self._clean(said, "" if name else self._field)
            if name:
                self._field = said
            if cleaned != said:
                self._changed = True
                return json.dumps(cleaned, ensure_ascii=False) + (found["colon"] or "")
        return whole


def same_but_marks(recorded: bytes, requested: bytes) -> bool:
    """Tell whether a recorded payload is the requested one, or could be what was left of it."""
    parts = _MARKS.split(recorded)
    if len(parts) == 1:
        return recorded == requested
    first, *middle, last = parts
    if len(requested) < len(first) + len(last):
        return False
    if not (requested.startswith(first) and requested.endswith(last)):
        return False
    place, end = len(first), len(requested) - len(last)
    for part in middle:
        found = requested.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _spellings(value: str) -> set[str]:
    """Return what a value looks like in texts: plain, escaped, in a URL, in base64."""
    data = value.encode("utf-8", "surrogatepass")
    spellings = {
        value,
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value, safe="", errors="replace"),
        quote_plus(value, errors="replace"),
        data.hex(),
    }
    for shift in range(3):
        # What base64 makes of it behind 0, 1 or 2 other bytes; the ends depend on neighbours.
        encoded = base64.b64encode(b"\0" * shift + data).rstrip(b"=")
        inner = encoded[(0, 2, 3)[shift] : len(encoded) - (1 if (shift + len(data)) % 3 else 0)]
        spellings |= {inner.decode(), inner.translate(bytes.maketrans(b"+/", b"-_")).decode()}
    return {spelling for spelling in spellings if len(spelling) >= SECRET_CHARS_MIN}
