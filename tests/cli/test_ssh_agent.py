"""An ssh-agent signs the log, and the private key is nowhere else.

*Goal*: with the key in an agent everything is as with one in a file, rotation and both stores
included; an agent that is gone, lacks the key or answers rubbish stops the writing and nothing
more. *Method*: OpenSSH's own agent and keys; for rubbish, a server in its place.
"""

import asyncio
import shutil
import socketserver
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.app import open_store
from holdfast.errors import KeyMissing, StoreUnavailable
from holdfast.proof.agent import AgentKey, SshAgent
from holdfast.proof.note import SignerKey
from holdfast.proof.sqlite_source import verify_file
from holdfast.testing.harness import begin

needs_openssh = pytest.mark.skipif(
    not all(map(shutil.which, ["ssh-agent", "ssh-add", "ssh-keygen"])), reason="no OpenSSH here"
)


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class Agent:
    """An ssh-agent of the test's own."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.socket = folder / "s"
        monkeypatch.setenv("SSH_AUTH_SOCK", str(self.socket))
        monkeypatch.setenv("HOLDFAST_KEY", "ssh-agent")
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)], stdout=subprocess.PIPE, text=True
        )
        assert "SSH_AUTH_SOCK" in self.process.stdout.readline(), "it listens"

    def stop(self):
        self.process.terminate()
        self.process.communicate()
        self.socket.unlink(missing_ok=True)

    def add(self, name, kind="ed25519"):
        """Make a key, give it to the agent alone, and return its fingerprint."""
        path = self.folder / name
        run("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", str(path))
        run("ssh-add", "-q", str(path))
        return run("ssh-keygen", "-lf", str(path)).split()[1]

    def again(self, name):
        run("ssh-add", "-q", str(self.folder / name))


@pytest.fixture
def agent(monkeypatch):
    folder = Path(tempfile.mkdtemp(prefix="hf-agent-"))
    agent = Agent(folder, monkeypatch)
    yield agent
    agent.stop()
    shutil.rmtree(folder)


@needs_openssh
@pytest.mark.parametrize("store", ["holdfast.db", "postgres"])
def test_everything_is_as_with_a_key_in_a_file(agent, cli, store, request, monkeypatch):
    url = store if store != "postgres" else request.getfixturevalue("database")
    monkeypatch.setenv("HOLDFAST_STORE", url)
    agent.add("rsa", "rsa")
    first = agent.add("first")
    said = cli("key", "new", "--origin", "example.com/log")
    assert said.code == 0, said.err
    assert said.out.split()[-1].startswith("example.com/log+")
    assert cli("run", "desk.py:price", "--id", "p", "--input", "7").code == 0
    assert cli("verify").code == 0
    assert not list(Path().glob("*.key")), "the private key is in the agent alone"

    same = cli("key", "rotate")
    assert same.code == 2
    assert "is the one that was named to take over" in same.err
    second = agent.add("second")
    several = cli("key", "rotate")
    assert several.code == 2
    assert f"{first} (first), {second} (second)" in several.err
    monkeypatch.setenv("HOLDFAST_KEY", f"ssh-agent:{second}")
    assert cli("key", "rotate").code == 0
    monkeypatch.setenv("HOLDFAST_KEY", "ssh-agent:whichever")
    assert cli("run", "desk.py:price", "--id", "q", "--input", "7").code == 0
    shown = cli("key", "show").out.split()
    assert len(shown) == 2
    said = cli("verify", "--trust", shown[0], "--json").json
    assert (said["ok"], said["keys"]) == (True, shown)


@needs_openssh
def test_a_log_moves_from_its_file_to_an_agent(agent, cli, monkeypatch):
    agent.add("first")
    monkeypatch.delenv("HOLDFAST_KEY")
    assert cli("key", "new").code == 0
    monkeypatch.setenv("HOLDFAST_KEY", "ssh-agent")
    moved = cli("key", "rotate")
    assert moved.code == 0
    assert "holdfast.db.key still holds the key that has handed over; remove it" in moved.err
    Path("holdfast.db.key").unlink()
    assert cli("run", "desk.py:price", "--id", "p", "--input", "7").code == 0
    assert cli("verify").code == 0
    run("ssh-add", "-q", "-D")
    refused = cli("run", "desk.py:price", "--id", "q", "--input", "7")
    assert refused.code == 1
    assert "holdfast.db.key nor the ssh-agent" in refused.err


@needs_openssh
def test_an_agent_that_is_gone_stops_the_writing_until_it_is_back(agent, tmp_path, cli):
    agent.add("first")
    assert cli("key", "new", "--store", str(tmp_path / "s.db")).code == 0

    async def main():
        store = await open_store(str(tmp_path / "s.db"))
        await begin(store, "before")
        agent.stop()
        with pytest.raises(StoreUnavailable, match=r"ssh-agent does not sign: .*No such file"):
            await begin(store, "never")
        agent.start()
        with pytest.raises(StoreUnavailable, match="does not sign with this key"):
            await begin(store, "never")
        agent.again("first")
        await begin(store, "behind")
        rows = [row.run for row in await store.rows()]
        await store.close()
        run("ssh-add", "-q", "-D")
        with pytest.raises(KeyMissing, match="nor the ssh-agent"):
            await open_store(str(tmp_path / "s.db"))
        return rows

    assert sorted(asyncio.run(main())) == ["before", "behind"]
    assert verify_file(tmp_path / "s.db").ok


@contextmanager
def answering(answers, monkeypatch):
    """A server in an agent's place that answers whatever it is asked."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            length = int.from_bytes(self.request.recv(4, 1 << 8), "big")
            self.request.recv(length, 1 << 8)
            self.request.sendall(answers.pop(0))

    folder = Path(tempfile.mkdtemp(prefix="hf-agent-"))
    with socketserver.UnixStreamServer(str(folder / "s"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "s"))
        yield
        server.shutdown()
        thread.join()
    shutil.rmtree(folder)


def packed(data):
    return len(data).to_bytes(4, "big") + data


KEY = SignerKey("example.com/log", bytes(32))
OTHER = SignerKey("example.com/log", bytes([1] * 32))


def signature(by, text="text", kind=b"ssh-ed25519"):
    return packed(b"\x0e" + packed(packed(kind) + packed(by.sign(text))))


RUBBISH = [
    b"",
    packed(b""),
    packed(b"\x05"),
    packed(b"\x0e"),
    packed(b"\x0e\xff\xff\xff\xff"),
    packed(b"\x0e" + packed(b"\0\0\0\1")),
    b"\xff\xff\xff\xff",
    signature(KEY)[:-1],
    signature(KEY, kind=b"ssh-rsa"),
    signature(OTHER),
    signature(KEY, "other text"),
]


@pytest.mark.parametrize("answer", RUBBISH)
def test_what_is_no_signature_of_the_key_is_never_taken_for_one(answer, monkeypatch):
    key = AgentKey(KEY.name, KEY.verifier.public, SshAgent())
    with answering([signature(KEY), answer], monkeypatch):
        assert key.sign("text") == KEY.sign("text")
        with pytest.raises(StoreUnavailable, match="the ssh-agent does not sign"):
            key.sign("text")


@pytest.mark.parametrize("answer", [packed(b"\x0c"), packed(b"\x0c\0\0\0\1"), packed(b"\x05")])
def test_a_list_of_keys_that_is_none_is_refused(answer, monkeypatch):
    with answering([answer, packed(b"\x0c\0\0\0\0")], monkeypatch):
        if answer != packed(b"\x0c"):
            with pytest.raises(StoreUnavailable, match="the ssh-agent does not sign"):
                SshAgent().identities()
        assert SshAgent().identities() == []


def test_without_an_agent_it_says_so(monkeypatch, tmp_path):
    for value, said in (("", "SSH_AUTH_SOCK is not set"), (str(tmp_path / "none"), "No such file")):
        monkeypatch.setenv("SSH_AUTH_SOCK", value)
        with pytest.raises(StoreUnavailable, match=said):
            SshAgent().identities()
