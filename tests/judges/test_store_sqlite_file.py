from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from judges import store_sqlite_file
from judges.store import StoreError
from judges.store_sqlite import SqliteStore
from ruler.errors import ConfigError
from tests.judges.store_contract import contents
from tests.judges.store_worker import Worker, is_sound, key, raw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    await store.close()


# --- Opening ---


async def test_the_file_and_its_folders_are_for_the_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        (tmp_path / "there").mkdir(mode=0o755)
        store = SqliteStore(tmp_path / "there" / "a" / "b" / "cache.db")
        await store.put(key(1), "x", created_at=1.0)
        await store.get(key(1))
    finally:
        os.umask(before)
    modes = {
        entry.name: oct(stat.S_IMODE(entry.stat().st_mode)) for entry in (tmp_path / "there").rglob("*")
    }  # while it is open
    files = {"cache.db": "0o600", "cache.db-wal": "0o600", "cache.db-shm": "0o600"}
    assert modes == {"a": "0o700", "b": "0o700", **files}
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o755
    await store.close()


async def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SqliteStore("cache.db")
    monkeypatch.chdir("/")
    await store.put(key(1), "x", created_at=1.0)
    await store.close()
    assert store.location == str(tmp_path / "cache.db")
    assert repr(store) == f"SqliteStore({store.location!r})"
    assert (tmp_path / "cache.db").exists()


def test_an_empty_file_is_taken(path: Path) -> None:
    path.touch()
    SqliteStore(path)
    assert is_sound(path)


def write_text(path: Path) -> None:
    path.write_text("notes of mine")


def write_another_database(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("CREATE TABLE entries (key, created_at, text)")


def write_a_newer_version(path: Path) -> None:
    SqliteStore(path)
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 2")


def damage_the_head(path: Path) -> None:
    SqliteStore(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (write_text, "not a database"),
        (write_another_database, "another program"),
        (write_a_newer_version, "schema 2, this one knows 1"),
        (damage_the_head, "not a database"),
        (Path.mkdir, "unable to open"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_as_it_is(path: Path, write: Callable[[Path], None], why: str) -> None:
    write(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigError, match=why) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize("bad", ["/dev/null/cache.db", "/proc/nowhere/cache.db", "a\0b"])
def test_a_path_that_cannot_be(bad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SqliteStore(bad)
    assert bad.replace("\0", "\\x00") in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    SqliteStore(path)
    for locked, mode in ((path, 0o400), (tmp_path, 0o500)):
        locked.chmod(mode)
        with pytest.raises(ConfigError, match="cache.db"):
            SqliteStore(path)
        locked.chmod(0o700)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_lease_seconds_must_be_positive(path: Path, seconds: float) -> None:
    with pytest.raises(ConfigError, match="lease_seconds"):
        SqliteStore(path, lease_seconds=seconds)
    assert not path.exists()


@pytest.mark.slow
async def test_many_processes_make_it_at_once(path: Path) -> None:
    workers = [Worker(str(path), "open_at_once", i) for i in range(8)]
    assert [worker.line() for worker in workers] == ["ready"] * 8
    for worker in workers:
        worker.tell()
    assert [worker.line() for worker in workers] == ["done"] * 8
    for worker in workers:
        worker.rest()
        worker.__exit__(None, None, None)
    store = SqliteStore(path)
    assert sorted((await contents(store)).values()) == [str(i) for i in range(8)]
    await store.close()


async def test_many_threads_make_it_at_once(path: Path) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(SqliteStore, path) for _ in range(16)))
    await asyncio.gather(*(store.put(key(i), str(i), created_at=1.0) for i, store in enumerate(stores)))
    assert len(await contents(stores[0])) == 16
    for store in stores:
        await store.close()
    assert is_sound(path)


# --- When the file is not as it should be ---


async def test_a_file_that_was_removed_is_made_anew(path: Path, store: SqliteStore) -> None:
    other = SqliteStore(path)
    await store.put(key(1), "x", created_at=1.0)
    assert await other.get(key(1)) == "x"
    for file in path.parent.glob("cache.db*"):
        file.unlink()
    await other.put(key(2), "y", created_at=1.0)
    assert await store.get(key(1)) is None
    await store.put(key(3), "z", created_at=1.0)
    await other.close()
    assert set(await contents(store)) == {key(2), key(3)}
    await store.close()
    assert is_sound(path)


async def test_a_database_that_is_locked_for_long(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sqlite_file, "BUSY_SECONDS", 0.05)
    await store.put(key(1), "x", created_at=1.0)
    await store.close()
    assert await store.get(key(1)) == "x"
    with raw(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for call in (store.put(key(2), "y", created_at=1.0), store.lease(key(2)), store.delete()):
            with pytest.raises(StoreError, match=r"cache.db: locked by another program for more than 0.05 seconds"):
                await call
        assert await store.get(key(1)) == "x"
        with pytest.raises(ConfigError, match="locked"):
            SqliteStore(path)
        connection.execute("ROLLBACK")
    await store.put(key(2), "y", created_at=1.0)
    assert await store.lease(key(2)) is True
    assert await store.get(key(2)) == "y"


@pytest.mark.slow
async def test_a_full_disk(path: Path) -> None:
    with Worker(str(path), "fill_up") as worker:
        lines = worker.rest()
    assert [line.split()[:2] for line in lines] == [
        ["small", "False"],
        ["large", "True"],
        ["other", "False"],
        ["after", "False"],
    ]
    assert f"{path}: " in lines[1]
    store = SqliteStore(path)
    assert set(await contents(store)) == {key(name) for name in ("before", "small", "other", "after")}
    await store.close()


async def test_damaged_pages_harm_only_what_is_in_them(path: Path, store: SqliteStore) -> None:
    texts = {key(i): f"{i}" * 500 for i in range(1000, 1500)}
    await asyncio.gather(*(store.put(name, text, created_at=1.0) for name, text in texts.items()))
    await store.close()
    pages = (await store.size_bytes()) // 4096
    with path.open("r+b") as file:
        for page in range(pages // 2, pages // 2 + 20):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    results = await asyncio.gather(*(store.get(name) for name in texts), return_exceptions=True)
    assert {type(result) for result in results} <= {str, type(None), StoreError}
    right = sum(result == text for result, text in zip(results, texts.values(), strict=True))
    assert len(texts) // 2 < right < len(texts)


async def test_a_row_that_is_no_text_is_read_as_it_can_be(path: Path, store: SqliteStore) -> None:
    await asyncio.gather(*(store.put(key(i), f"text {i}", created_at=1.0) for i in range(3)))
    with raw(path) as connection:
        connection.execute("UPDATE entries SET text = CAST(x'ff41fe' AS TEXT) WHERE key = ?", (bytes.fromhex(key(1)),))
        connection.execute("UPDATE entries SET text = 7 WHERE key = ?", (bytes.fromhex(key(2)),))
    found = {key(0): "text 0", key(1): "\ufffdA\ufffd", key(2): "7"}
    assert {name: await store.get(name) for name in found} == found
    assert await contents(store) == found
