"""Servers of tests leave nothing behind, however the tests end.

*Goal*: directories of processes that were killed are removed by the next one, and no other's are.
*Method*: real processes that make one; one is killed, one lives on.
"""

import subprocess
import sys

from holdfast.testing.postgres import own_folder

MAKE = """
import sys
from holdfast.testing.postgres import own_folder
print(own_folder(sys.argv[1]), flush=True)
sys.stdin.read()
"""


def made(kind):
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    kind = f"hf-test-{tmp_path.name}"
    (dead, left), (alive, kept) = made(kind), made(kind)
    dead.kill()
    dead.communicate()
    mine = own_folder(kind)
    names = {path.name for path in mine.parent.glob(f"{kind}-*")}
    alive.communicate()
    assert names == {mine.name, kept.rpartition("/")[2]}
    assert left.rpartition("/")[2] not in names
    mine.rmdir()
    own_folder(kind).rmdir()
    assert not list(mine.parent.glob(f"{kind}-*"))
