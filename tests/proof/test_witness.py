"""A witness cosigns a log's next head if and only if the log carries on from the last one.

*Goal*: the answers are those of c2sp.org/tlog-witness, over HTTP as over a call; what was cosigned
is remembered across restarts; two histories never get two cosignatures. *Method*: heads of real
trees, requests that are right and wrong in each way that the specification names.
"""

import http.client
import itertools
import threading

import pytest

from holdfast.proof.merkle import TileNodes, Tree, consistency_proof, leaf_hash
from holdfast.proof.note import Checkpoint, Note, Signature, SignerKey, encode_base64
from holdfast.proof.witness import SIZE, Witness, request, serve
from holdfast.testing.signed import HEIR, KEY

ANN = SignerKey("ann.example", bytes(range(2, 34)))


def head_of(size, *, salt=b"", key=KEY):
    """Return the note of a log's head and what makes proofs of it."""
    tree = Tree()
    for n in range(size):
        tree.append(leaf_hash(salt + b"%d" % n))
    note = Checkpoint(key.name, size, tree.root())
    signed = note.note(key.verifier, key.sign(note.text()))
    return signed, TileNodes(size, lambda level, _n, width: tree.tail(level)[: width * 32])


def ask(old, size, **options):
    note, nodes = head_of(size, **options)
    return request(old, [encode_base64(h) for h in consistency_proof(old, size, nodes)], note)


@pytest.fixture
def witness(tmp_path):
    times = itertools.count(1_790_000_000)
    return Witness(ANN, tmp_path / "state", [KEY.verifier], lambda: next(times))


def test_heads_that_carry_on_are_cosigned(witness, tmp_path):
    for old, size in ((0, 5), (5, 5), (5, 64), (64, 200)):
        said = witness.add_checkpoint(ask(old, size))
        assert said.status == 200, said
        note, _ = head_of(size)
        line = Signature.parse(said.body.removesuffix("\n"))
        cosigned = Note(note.text, (*note.signatures, line))
        assert cosigned.signed_by(ANN.witness)
        assert not cosigned.signed_by(HEIR.witness)
        witness = Witness(ANN, tmp_path / "state", [KEY.verifier], lambda: 1)
        assert witness.seen(KEY.name).size == size


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"old x\n\nnote", 400),
        (b"old 007\n\nnote", 400),
        (b"old " + b"1" * 5_000 + b"\n\nnote", 400),
        (b"old 5\n!\n\nnote", 400),
        (ask(5, 9).replace(b"old 5", b"old 10"), 400),
        (ask(5, 9) + b"\n", 400),
        (ask(5, 9, key=SignerKey("other.example", KEY.seed)), 404),
        (ask(5, 9, key=HEIR), 403),
        (ask(4, 9), 409),
        (ask(0, 9), 409),
        (ask(5, 5, salt=b"x"), 409),
        (ask(5, 9, salt=b"x"), 422),
        (
            ask(5, 9).replace(b"old 5\n", b"old 5\n" + encode_base64(bytes(32)).encode() + b"\n"),
            422,
        ),
    ],
)
def test_all_else_is_refused_and_changes_nothing(body, status, witness):
    assert witness.add_checkpoint(ask(0, 5)).status == 200
    before = witness.seen(KEY.name)
    said = witness.add_checkpoint(body)
    assert said.status == status, said
    if status == 409:
        assert (said.body, said.kind) == ("5\n", SIZE)
    assert witness.seen(KEY.name) == before
    assert witness.add_checkpoint(ask(5, 6)).status == 200


def test_over_http_it_says_the_same(witness):
    with serve(witness, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            connection = http.client.HTTPConnection(*server.server_address)
            for body, status in ((ask(0, 5), 200), (ask(4, 6), 409), (ask(5, 6), 200), (b"", 400)):
                connection.request("POST", "/add-checkpoint", body)
                answer = connection.getresponse()
                assert (answer.status, answer.read() != b"") == (status, True)
            connection.request("POST", "/elsewhere", b"")
            assert connection.getresponse().status == 404
            for length in ("1" * 5_000, "-1", "01", "x"):  # each closes the connection
                connection.request("POST", "/add-checkpoint", headers={"Content-Length": length})
                answer = connection.getresponse()
                assert (answer.status, answer.read() != b"") == (400, True), length
        finally:
            server.shutdown()
            thread.join()


def test_two_histories_never_get_two_cosignatures(witness):
    for size in range(1, 40):
        body = ask(witness.seen(KEY.name).size, size, salt=b"x" if size % 3 == 0 else b"")
        witness.add_checkpoint(body)
    assert witness.seen(KEY.name) == Checkpoint.parse(head_of(38)[0].text)
