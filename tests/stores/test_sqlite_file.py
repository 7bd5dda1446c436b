"""A file is a store of ours, or it is refused and left exactly as it is.

*Goal*: nothing foreign, torn or newer is ever written to, and the message says what is wrong.
*Method*: files of every wrong kind, a store cut short at every page and in the header, tables made
by migrations beside tables made anew, and a user who may not write where he points.
"""

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from holdfast.errors import StoreError, StoreRefused, StoreUnavailable, UsageError
from holdfast.stores.sqlite import SqliteStore, file
from holdfast.stores.sqlite.fsck import objects
from holdfast.testing.conformance import log_of_schedule
from holdfast.testing.script import Script


def opened(path: Path, **how) -> None:
    async def main():
        await (await SqliteStore.open(path, **how)).close()

    asyncio.run(main())


def refusal(path: Path, error: type[StoreError] = StoreRefused, **how) -> str:
    """Return why a store is not opened, having seen that nothing was changed."""
    before = contents(path.parent)
    with pytest.raises(error) as caught:
        opened(path, **how)
    after = contents(path.parent)
    if "read_only" in how:  # SQLite may leave an empty log beside the file
        after = {name: content for name, content in after.items() if name in before}
    assert after == before
    assert str(path) in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def store_file(tmp_path: Path) -> Path:
    """A store with something in it, closed."""
    path = tmp_path / "holdfast.db"

    async def main():
        store = await SqliteStore.open(path, inline=True)
        await log_of_schedule(store, 1, moves=40)
        await store.close()

    asyncio.run(main())
    for beside in tmp_path.glob("holdfast.db-*"):
        beside.unlink()
    return path


def test_a_missing_file_is_created_for_its_owner_alone(tmp_path: Path):
    old = os.umask(0)
    try:
        opened(tmp_path / "a.db")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600
    opened(tmp_path / "a.db", create=False)


def test_an_empty_file_becomes_a_store(tmp_path: Path):
    path = tmp_path / "a.db"
    path.touch(0o640)
    opened(path)
    assert path.stat().st_size > 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_url_names_the_file_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        store = await SqliteStore.open("a ü?#.db")
        await store.close()
        return store.url

    assert asyncio.run(main()) == f"sqlite://{tmp_path}/a ü?#.db"
    assert (tmp_path / "a ü?#.db").exists()
    opened(tmp_path / "a ü?#.db", read_only=True)


def test_a_missing_file_is_not_created_unless_that_was_asked_for(tmp_path: Path):
    assert "there is no store" in refusal(tmp_path / "a.db", create=False)
    assert "there is no store" in refusal(tmp_path / "a.db", read_only=True)


def test_a_missing_directory_is_named(tmp_path: Path):
    path = tmp_path / "no" / "such" / "a.db"
    with pytest.raises(StoreRefused, match=f"{path.parent} does not exist"):
        opened(path)
    assert not path.parent.exists()


def test_a_directory_is_refused(tmp_path: Path):
    (tmp_path / "a.db").mkdir()
    assert "not a file" in refusal(tmp_path / "a.db")


@pytest.mark.parametrize(
    "content",
    [b"x", b"hello\n" * 1000, bytes(4096), bytes(1), b"SQLite format 3", b"\xff" * 100],
    ids=["a byte", "text", "zeros", "a zero", "part of the magic", "noise"],
)
def test_what_is_not_sqlite_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "a.db"
    path.write_bytes(content)
    assert f"not a SQLite file; it has {len(content)} bytes" in refusal(path)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_programs_sqlite_file_is_refused(mode: str, tmp_path: Path):
    path = tmp_path / "a.db"
    with closing(apsw.Connection(str(path))) as other:
        other.execute(f"PRAGMA journal_mode = {mode}")
        other.execute("CREATE TABLE run (id TEXT)")
        other.execute("INSERT INTO run VALUES ('theirs')")
        if mode == "wal":
            assert (tmp_path / "a.db-wal").stat().st_size  # opening it must not checkpoint it
            assert "another program" in refusal(path)
    assert "another program (application_id 0x0, expected 0x686f6c64)" in refusal(path)


def test_an_empty_database_of_another_program_is_refused(tmp_path: Path):
    path = tmp_path / "a.db"
    with closing(apsw.Connection(str(path))) as other:
        other.execute("VACUUM")
    assert path.stat().st_size
    assert "another program" in refusal(path)


def test_a_newer_version_is_refused_by_both_names(store_file: Path):
    with closing(apsw.Connection(str(store_file))) as other:
        other.execute(f"PRAGMA user_version = {file.VERSION + 1}")
    for path in list(store_file.parent.glob("*-wal")) + list(store_file.parent.glob("*-shm")):
        path.unlink()
    reason = refusal(store_file)
    assert f"version {file.VERSION + 1}" in reason
    assert f"up to {file.VERSION}" in reason


def test_a_newer_version_that_only_the_write_ahead_log_tells_of_is_refused(store_file: Path):
    with closing(apsw.Connection(str(store_file))) as other:
        other.execute(f"PRAGMA user_version = {file.VERSION + 1}")
        for how in ({}, {"read_only": True}):
            with pytest.raises(StoreRefused, match=f"version {file.VERSION + 1}"):
                opened(store_file, **how)


def cuts(size: int) -> Iterator[int]:
    yield from (1, 15, 16, 60, 72, 99, 100, 101, 511, 512, 4095)
    yield from range(4096, size, 4096)
    yield from (4097, size - 2048, size - 1)


def test_a_file_cut_short_is_refused_wherever_the_cut_is(store_file: Path, tmp_path: Path):
    whole = store_file.read_bytes()
    torn = tmp_path / "torn" / "a.db"
    torn.parent.mkdir()
    for size in cuts(len(whole)):
        torn.write_bytes(whole[:size])
        assert refusal(torn), f"cut at {size} of {len(whole)}"
        assert refusal(torn, read_only=True), f"cut at {size} of {len(whole)}"
        for beside in torn.parent.glob("a.db-*"):
            beside.unlink()


def test_a_file_cut_to_nothing_beside_its_write_ahead_log_is_refused(store_file: Path):
    store_file.write_bytes(b"")
    store_file.with_name(store_file.name + "-wal").write_bytes(bytes(100))
    assert "truncated" in refusal(store_file)


def test_a_store_that_is_open_in_this_process_keeps_its_locks(tmp_path: Path):
    """POSIX locks end when a process closes any descriptor of the file, so none may be opened."""
    path = tmp_path / "a.db"

    async def main():
        store = await SqliteStore.open(path)
        before = locks(path)
        await (await SqliteStore.open(path)).close()
        after = locks(path)
        await store.close()
        return before, after

    before, after = asyncio.run(main())
    assert before
    assert after == before


def locks(path: Path) -> set[str]:
    """Return the POSIX locks on a file, as the kernel lists them."""
    table = Path("/proc/locks")
    if not table.exists():
        pytest.skip("only Linux tells")
    inode = f":{path.stat().st_ino}"
    fields = (line.split() for line in table.read_text().splitlines())
    return {" ".join(f[1:]) for f in fields if f[1] == "POSIX" and f[5].endswith(inode)}


def test_migrations_lead_to_the_tables_of_a_new_file(tmp_path: Path):
    fresh, grown = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    file.create_tables(fresh)
    file.migrate(grown, tmp_path)
    assert objects(fresh) == objects(grown)
    assert len(objects(fresh)[0]) > 10
    version = "PRAGMA user_version"
    assert fresh.execute(version).fetchall() == grown.execute(version).fetchall() != [(0,)]
    steps = sorted(path.name for path in (Path(file.__file__).parent / "migrations").iterdir())
    assert steps == [f"{n:04}.sql" for n in range(1, file.VERSION + 1)]


def test_a_migration_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001.sql").write_text("CREATE TABLE a (b); CREATE TABLE a (b);")
    monkeypatch.setattr(file, "_HERE", tmp_path)
    connection = apsw.Connection(":memory:")
    with pytest.raises(apsw.SQLError):
        file.migrate(connection, tmp_path)
    assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []
    assert connection.execute("PRAGMA user_version").fetchall() == [(0,)]


def test_a_store_opened_to_read_refuses_to_write(store_file: Path):
    async def main():
        store = await SqliteStore.open(store_file, read_only=True)
        assert await store.rows()
        with pytest.raises(UsageError, match="read only"):
            await store.create(Script.begin("new").new())
        with pytest.raises(UsageError, match="read only"):
            store.append(Script.begin("new").change())
        await store.close()

    before = store_file.read_bytes()
    asyncio.run(main())
    assert store_file.read_bytes() == before


def as_nobody(act) -> str:
    """Run something as a user who may write nowhere and return what it raised."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            act()
            said = "nothing"
        except Exception as error:  # noqa: BLE001 - to be told of
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        return answer.read().decode()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_without_the_right_to_write_one_may_only_read(store_file: Path):
    home = Path("/tmp") / f"holdfast-{os.getpid()}"  # pytest's own folders are closed to others
    home.mkdir()
    try:
        path = Path(shutil.copy(store_file, home))
        path.chmod(0o644)
        home.chmod(0o555)
        answer = as_nobody(lambda: opened(home / "new.db"))
        assert answer.startswith("StoreUnavailable"), answer
        assert "new.db: cannot create the store: Permission denied" in answer
        answer = as_nobody(lambda: opened(path))
        assert answer.startswith("StoreUnavailable"), answer
        assert as_nobody(lambda: opened(path, read_only=True)) == "nothing"
        path.chmod(0)
        answer = as_nobody(lambda: opened(path, read_only=True))
        assert answer.startswith("StoreUnavailable"), answer
        assert [p.name for p in home.iterdir()] == [path.name]
    finally:
        home.chmod(0o755)
        shutil.rmtree(home)


def test_a_file_that_stays_locked_is_unavailable(store_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file, "BUSY_TIMEOUT_MS", 50)

    async def main():
        store = await SqliteStore.open(store_file)
        other = apsw.Connection(str(store_file))
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"has been locked for 0\.05 s"):
                await store.create(Script.begin("new").new())
            other.execute("COMMIT")
        assert await store.create(Script.begin("new").new())
        await store.close()

    asyncio.run(main())
