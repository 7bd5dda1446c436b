"""The command as a real process: killed, interrupted, cut off, out of disk.

*Goal*: `kill -9` and the same command again carry on with every deed done as its contract says;
SIGTERM and Ctrl-C finish the effect under way and hand the run back; a second one cuts; a full disk
is told and loses nothing; a reader that goes away is no error. *Method*: processes of their own,
deeds counted in a file that holdfast knows nothing of.
"""

import json
import resource
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

SLOW = ("desk.py:deliver", "--id", "d", "--input", '"slow"')


def test_a_run_that_was_killed_carries_on(processes, cli, desk):
    (desk / "die").touch()
    args = ("run", "desk.py:deliver", "--id", "d", "--input", '"o"', "--json")
    assert processes.run(*args).code == -signal.SIGKILL
    assert cli("ls", "--json").lines[0]["status"] == "running"
    (desk / "die").unlink()
    said = processes.run(*args)
    assert (said.code, said.json["result"]) == (0, "{'cents': 1} shipped")
    first, second, third = processes.deeds()
    assert first == "refund"
    assert second.startswith("ship ")
    assert third == second  # again, under the same idempotency key
    assert cli("fsck").code == 0
    assert cli("replay", "d", "--code", "desk.py").code == 0


def test_a_once_step_that_was_killed_is_in_doubt_not_repeated(processes, cli):
    process = processes.start("run", *SLOW)
    processes.until("begin pack")
    process.kill()
    process.wait()
    said = processes.run("run", *SLOW)
    assert said.code == 4
    assert "slow#1 (once)" in said.err
    assert "its worker was lost" in said.err
    assert processes.deeds() == ["begin pack"]
    assert cli("doubts", "--json").json[0]["step"] == "slow#1"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_finishes_the_effect_and_hands_the_run_back(processes, cli, desk, number, code):
    process = processes.start("run", *SLOW)
    processes.until("begin pack")
    process.send_signal(number)
    assert process.stderr.readline().startswith(f"{number.name}: effects under way are finished")
    (desk / "go").touch()
    said = processes.ended(process)
    assert (said.code, said.out) == (code, "")
    assert (
        f"stopped by {number.name}; carry on with holdfast run desk.py:deliver --id d" in said.err
    )
    assert processes.deeds() == ["begin pack", "end pack"]
    assert "slow#1" in [a["key"] for a in cli("show", "d", "--json").json["completed"]]
    assert cli("run", *SLOW).json == "pack shipped"
    assert processes.deeds()[:2] == ["begin pack", "end pack"]
    assert len(processes.deeds()) == 3


def test_a_second_signal_cuts_the_effect(processes, cli):
    process = processes.start("run", *SLOW, "--json")
    processes.until("begin pack")
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said = processes.ended(process)
    assert said.code == 130
    assert said.json["stopped_by"] == "SIGINT"
    assert cli("run", *SLOW).code == 4  # in doubt
    assert processes.deeds() == ["begin pack"]


def test_a_worker_drains_on_sigterm(processes, cli, desk):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    first = processes.start("run", *SLOW)
    processes.until("begin pack")
    first.kill()
    first.wait()
    cli("run", *SLOW)
    cli("resolve", "d", "slow#1", "--did-not")
    worker = processes.start("worker", "desk.py")
    processes.until("begin pack", 2)
    worker.terminate()
    worker.stderr.readline()
    (desk / "go").touch()
    said = processes.ended(worker)
    assert said.code == 0
    assert "has ended: SIGTERM" in said.err
    assert processes.deeds() == ["begin pack", "begin pack", "end pack"]


def test_a_worker_cuts_what_takes_longer_than_its_drain_timeout(processes, cli):
    first = processes.start("run", *SLOW)
    processes.until("begin pack")
    first.kill()
    first.wait()
    cli("run", *SLOW)
    cli("resolve", "d", "slow#1", "--did-not")
    worker = processes.start("worker", "desk.py", "--drain-timeout", "0.2", "--json")
    processes.until("begin pack", 2)
    worker.terminate()
    said = processes.ended(worker)
    assert said.code == 1
    assert (said.json["stopped_by"], said.json["cut"]) == ("SIGTERM", True)


def test_a_run_that_another_process_has_is_waited_for(processes, desk):
    first = processes.start("run", *SLOW)
    processes.until("begin pack")
    second = processes.start("run", *SLOW)
    assert "another worker holds run 'd'" in second.stderr.readline()
    (desk / "go").touch()
    assert processes.ended(first).json == "pack shipped"
    assert processes.ended(second).json == "pack shipped"
    assert processes.deeds()[:2] == ["begin pack", "end pack"]


def test_tail_follows_another_process_until_the_run_has_ended(processes, desk):
    run = processes.start("run", *SLOW)
    processes.until("begin pack")
    tail = processes.start("tail", "d", "--json")
    assert '"run.created"' in tail.stdout.readline()
    (desk / "go").touch()
    processes.ended(run)
    said = processes.ended(tail)
    assert said.code == 0
    assert said.lines[-1]["type"] == "run.succeeded"


def test_ctrl_c_ends_tail_without_a_word(processes, cli):
    cli("run", "desk.py:price", "--id", "p", "--input", "1")
    tail = processes.start("tail")
    assert "run.created" in tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    said = processes.ended(tail)
    assert (said.code, said.err) == (130, "")


def ready(port):
    """The name of the worker that answers, once it is ready."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as answer:
                return json.load(answer)["worker"]
        except urllib.error.HTTPError as error:
            error.close()
            select.select([], [], [], 0.02)


def test_effects_that_outlast_the_drain_are_given_up_and_another_worker_takes_over_at_once(
    processes, cli
):
    cli("run", "desk.py:approve", "--id", "a", "--input", '"o"')
    start = processes.start("run", *SLOW)
    processes.until("begin pack")
    start.kill()
    start.wait()
    cli("run", *SLOW)
    cli("resolve", "d", "slow#1", "--did-not")
    first = processes.start("worker", "desk.py", "--drain-timeout", "0.2", "--json")
    processes.until("begin pack", 2)
    second = processes.start("worker", "desk.py", "--lease", "600", "--health", "0")
    said = iter(second.stderr.readline, "")
    port = next(line for line in said if "/ready" in line).split(":")[2].split("/")[0]
    while len(names := {one["worker"] for one in cli("workers", "--json").lines}) < 2:
        select.select([], [], [], 0.02)
    assert ready(port) in names
    first.send_signal(signal.SIGTERM)
    cut = processes.ended(first)
    assert cut.code == 1
    assert (cut.json["stopped_by"], cut.json["given_up"]) == ("SIGTERM", ["d"])
    assert "given up as by a crash: d. What was under way there may yet have acted" in cut.err
    while not (doubts := cli("doubts", "--json").json):  # the second worker has it in doubt now
        select.select([], [], [], 0.02)
    assert doubts[0]["step"] == "slow#1"
    second.send_signal(signal.SIGTERM)
    assert processes.ended(second).code == 0
    assert processes.deeds() == ["begin pack"] * 2
    assert cli("workers").err == "no workers\n"


def test_a_reader_that_goes_away_is_no_error(processes, cli):
    cli("run", "desk.py:fail", "--id", "f", "--input", '"' + "x" * 300_000 + '"')
    events = processes.start("events", "f", "--json")
    events.stdout.read(10)
    events.stdout.close()
    assert events.stderr.read() == ""
    assert events.wait() == 141


FILL = """
import random
import holdfast as hf

@hf.tool(effect="idempotent")
def fill(n: int) -> str:
    with open("deeds", "a") as file:
        file.write(f"{n} {hf.idempotency_key()}\\n")
    return random.Random(n).randbytes(100_000).hex()

@hf.agent
def filler(n: int) -> int:
    return sum(len(fill(i)) for i in range(n))
"""


def test_a_disk_that_fills_up_is_told_and_loses_nothing(processes, cli, desk):
    (desk / "filler.py").write_text(FILL)
    command = [sys.executable, "-m", "holdfast", "run", "filler.py", "--id", "f", "--input", "20"]
    bytes_max = 1_500_000

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))

    full = subprocess.run(
        command,
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit,
        check=False,
    )
    assert full.returncode == 1
    assert not full.stdout
    assert "Nothing was written" in full.stderr
    assert "nothing is lost, carry on with holdfast run filler.py --id f" in full.stderr
    assert "Traceback" not in full.stderr
    assert cli("fsck").code == 0
    done = len(cli("show", "f", "--json").json["completed"])
    assert 0 < done < 20
    assert cli("run", "filler.py", "--id", "f").json == 20 * 200_000
    assert len({line.split()[1] for line in processes.deeds()}) == 20
    assert len(processes.deeds()) <= 21  # the one whose outcome had no room was made again
