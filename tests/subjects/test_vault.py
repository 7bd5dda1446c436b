"""Payloads under a subject's key, and the vault that wraps such keys.

*Goal*: what was sealed opens for its place alone and shows nothing; equal parts are equal within a
subject only; a vault is one file for its owner's eyes. *Method*: properties and examples on the
functions that need no store.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import StoreRefused, VaultMissing
from holdfast.stores.payloads import split
from holdfast.stores.vault import SubjectKey, Vault, is_sealed, place, sealed_for

KEY, SALT, WHERE = bytes(range(32)), b"s" * 32, place("event", "r", 1)


def chunks_of(payload):
    """The chunks that a store would keep of a payload."""
    splitting, parts, numbers = split(payload), [], None
    while True:
        try:
            new = next(splitting) if numbers is None else splitting.send(numbers)
        except StopIteration:
            return parts
        parts += new
        numbers = [hash(part) & 0xFFFFFFFF for part in new]


@given(st.text(max_size=40) | st.text(min_size=2_100, max_size=2_300), st.text(min_size=1))
def test_what_was_sealed_opens_and_says_whose_it_is(text, subject):
    subject = subject.encode("utf-8", "replace").decode()
    key = SubjectKey(subject, KEY)
    payload = json.dumps(text, ensure_ascii=True).encode()
    sealed = key.seal(payload, SALT, WHERE)
    assert is_sealed(sealed)
    assert not is_sealed(payload)
    assert sealed_for(sealed) == subject
    assert key.open(sealed, WHERE) == (payload, SALT)


@pytest.mark.parametrize("size", [5, 3_000, 60_000])
def test_one_that_was_altered_or_stands_elsewhere_does_not_open(size):
    key = SubjectKey("S", KEY)
    sealed = key.seal(b'"' + b"x" * size + b'"', SALT, WHERE)
    with pytest.raises(StoreRefused, match="'S' cannot be opened"):
        key.open(sealed, place("event", "r", 2))
    with pytest.raises(StoreRefused):
        SubjectKey("S", b"o" * 32).open(sealed, WHERE)
    for at in {*range(0, len(sealed), max(1, len(sealed) // 50)), len(sealed) - 1}:
        altered = bytearray(sealed)
        altered[at] ^= 1
        with pytest.raises(StoreRefused):
            key.open(bytes(altered), WHERE)
    for cut in (0, 1, 3, len(sealed) // 2, len(sealed) - 1):
        with pytest.raises(StoreRefused):
            key.open(sealed[:cut], WHERE)


def conversation(turns):
    said = [{"role": "user", "content": f"{n} " + "lorem ipsum dolor " * 12} for n in range(turns)]
    return json.dumps({"model": "m", "messages": said}).encode()


def test_a_conversation_that_grows_shares_its_chunks_within_a_subject_and_not_beyond():
    key, other = SubjectKey("S", KEY), SubjectKey("T", b"t" * 32)
    before = set(chunks_of(key.seal(conversation(60), SALT, WHERE)))
    after = set(chunks_of(key.seal(conversation(62), SALT, place("event", "r", 2))))
    assert len(before) > 15
    assert len(before & after) >= len(before) - 4
    assert not before & set(chunks_of(other.seal(conversation(60), SALT, WHERE)))
    assert not any(b"lorem" in chunk for chunk in before)


def test_two_seals_of_one_small_payload_have_nothing_in_common():
    key = SubjectKey("S", KEY)
    one, two = (key.seal(b'"yes"', SALT, WHERE) for _ in range(2))
    assert one != two
    assert b"yes" not in one


def test_a_vault_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "holdfast.db.vault"
    with pytest.raises(VaultMissing, match="there is no vault at"):
        Vault(path).wrap("S", KEY, create=False)
    wrapped = Vault(path).wrap("S", KEY, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert Vault(path).unwrap("S", wrapped) == KEY
    assert Vault(path).wrap("S", KEY, create=True) != wrapped
    assert KEY not in wrapped
    with pytest.raises(VaultMissing, match="another vault"):
        Vault(path).unwrap("T", wrapped)
    with pytest.raises(VaultMissing, match="another vault"):
        Vault(None).unwrap("S", wrapped)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("HOLDFAST+VAULT+1+" + "A" * 43 + "=\n", 0o644, "may be read by others"),
        ("HOLDFAST+VAULT+1+AAAA\n", 0o600, "not a vault"),
        ("PRIVATE+KEY+x", 0o600, "not a vault"),
        ("", 0o600, "not a vault"),
    ],
)
def test_a_file_that_is_no_vault_is_refused(tmp_path, text, mode, says):
    path = tmp_path / "vault"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(VaultMissing, match=says):
        Vault(path).wrap("S", KEY, create=True)
    assert path.read_text() == text
