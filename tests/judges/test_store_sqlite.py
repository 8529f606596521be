from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from judges import store_sqlite_file, store_sqlite_writer
from judges.store import StoreError
from judges.store_sqlite import SqliteStore
from tests.judges.store_contract import StoreContract, contents, eventually, leased
from tests.judges.store_worker import Worker, is_sound, key, raw


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return str(tmp_path / "made" / "here" / "cache.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    await store.close()


def log_size(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("store ")]


# --- Killing, forking, ending ---


@pytest.mark.slow
async def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    said: list[str] = []
    for attempt, num_lines in enumerate((1, 40, 333, 1_000)):
        with (
            Worker(str(path), "put_forever", attempt) as worker,
            Worker(str(path), "put_forever", f"{attempt}b") as two,
        ):
            said += [worker.line() for _ in range(num_lines)]
            said += worker.kill()
            said += [two.line() for _ in range(20)]  # it goes on
            said += two.kill()
    assert is_sound(path)
    store = SqliteStore(path)
    kept = await contents(store)
    assert len(said) > 1_400
    assert {key(name) for name in said} <= kept.keys()
    await store.close()


@pytest.mark.slow
async def test_a_fork_while_others_write(path: Path) -> None:
    with Worker(str(path), "fork") as worker:
        said = []
        while (line := worker.line()) != "parent ends":
            assert line
            said.append(line)
        # The child is the last one to have the file open, but for us: closing it must not take the log from under it.
        store = SqliteStore(path)
        await store.put(key("between"), "seen", created_at=1.0)
        await store.close()
        worker.tell()
        said += worker.rest()
    assert "leased False True" in said
    assert "held False" in said
    assert said[-1] == "child--2 seen"
    names = {line for line in said if line.startswith(("parent-", "child-"))}
    assert {f"child-{number}" for number in range(-1, 20)} <= names
    store = SqliteStore(path)
    kept = await contents(store)
    assert {key(name.split()[0]) for name in names} <= kept.keys()
    await store.close()
    assert is_sound(path)


async def test_what_is_queued_at_the_end_of_a_process_is_kept(path: Path) -> None:
    with Worker(str(path), "leave") as worker:
        worker.rest()
    store = SqliteStore(path)
    assert len(await contents(store)) == 100
    assert await store.lease(key("held")) is True
    await store.close()


async def test_a_store_that_is_dropped_ends_its_thread(path: Path) -> None:
    store = SqliteStore(path)
    await store.put(key(1), "x", created_at=1.0)
    assert await store.lease(key(1)) is True
    assert threads() == ["store cache.db"]
    del store
    gc.collect()
    await eventually(lambda: not threads())
    other = SqliteStore(path)
    assert await other.lease(key(1)) is True
    await other.close()
    await eventually(lambda: not threads())


def test_a_loop_that_is_closed_early(path: Path) -> None:
    store = SqliteStore(path, lease_seconds=0.3)

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(store.lease(key(60))) is True
    puts = [loop.create_task(store.put(key(i), "x", created_at=1.0)) for i in range(50)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!"
    del puts

    async def later() -> None:
        await store.release(key(2))
        assert len(await contents(store)) == 50
        await leased(store, key(60))  # whoever had it is gone with its loop
        await store.close()

    asyncio.run(later())


# --- Leases ---


async def test_a_lease_that_was_lost_to_another_is_left_to_it(path: Path) -> None:
    stopped = SqliteStore(path, lease_seconds=0.6, clock=lambda: 0.0)  # its leases have run out for all others
    other, third = SqliteStore(path), SqliteStore(path)
    names = [key(i) for i in range(3)]
    for name in names:
        assert await stopped.lease(name) is True
        assert await other.lease(name) is True
    await stopped.put(names[0], "x", created_at=1.0)
    await stopped.release(names[1])
    await other.release(names[2])
    await leased(stopped, names[2])  # it has noticed that the first one is gone
    with raw(path) as connection:
        rows = connection.execute("SELECT key, expires_at FROM leases WHERE expires_at > 1").fetchall()
    assert {row_key.hex() for row_key, _ in rows} == set(names[:2])
    assert [await third.lease(name) for name in names[:2]] == [False, False]
    for store in (stopped, other, third):
        await store.close()


async def test_leases_are_renewed_by_the_thread_while_the_loop_is_busy(path: Path) -> None:
    store = SqliteStore(path, lease_seconds=0.3)
    assert await store.lease(key(1)) is True
    ends = set()
    with raw(path) as connection:
        while len(ends) < 4:
            ends.add(connection.execute("SELECT expires_at FROM leases").fetchone()[0])
    await store.close()


async def test_leases_of_the_dead_are_cleared_away(path: Path, store: SqliteStore) -> None:
    with raw(path) as connection:
        connection.execute("INSERT INTO leases VALUES (?, 'dead', 1.0)", (bytes.fromhex(key("never asked again")),))
    living = SqliteStore(path, lease_seconds=0.1)
    assert await living.lease(key(1)) is True
    with raw(path) as connection:
        await eventually(lambda: connection.execute("SELECT count(*) FROM leases").fetchone() == (1,))
    await living.close()


async def test_the_thread_sleeps_while_nothing_is_leased(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    turn = store_sqlite_writer.Writer._turn

    def counted(self: store_sqlite_writer.Writer) -> bool:
        turns.append(time.monotonic())
        return turn(self)

    monkeypatch.setattr(store_sqlite_writer.Writer, "_turn", counted)
    store = SqliteStore(path, lease_seconds=0.03)
    await store.get(key(1))
    assert not threads()
    await store.put(key(1), "x", created_at=1.0)
    await eventually(lambda: len(turns) == 2)
    await asyncio.sleep(0.2)
    assert len(turns) == 2
    assert await store.lease(key(1)) is True
    await eventually(lambda: len(turns) > 10)
    await store.close()


# --- Space ---


async def test_deleting_gives_space_back(path: Path, store: SqliteStore) -> None:
    await asyncio.gather(*(store.put(key(i), "x" * 3_000, created_at=float(i)) for i in range(5_000)))
    full = await store.size_bytes()
    assert full > 15_000_000
    assert await store.delete(older_than=2_500.0) == 2_500
    assert await store.size_bytes() < 0.6 * full
    assert log_size(path) == 0
    assert await store.delete() == 2_500
    assert await store.size_bytes() < 100_000


async def test_the_log_is_cut_after_a_reader_has_held_it_up(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sqlite_writer, "_LOG_BYTES", 2**20)
    monkeypatch.setattr(store_sqlite_file, "_CHECKPOINT_MILLISECONDS", 1)
    await store.put(key(0), "x", created_at=1.0)
    with raw(path) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM entries").fetchall()
        await asyncio.gather(*(store.put(key(i), "x" * 10_000, created_at=1.0) for i in range(800)))
        assert log_size(path) > 8_000_000
    end = time.monotonic() + 30
    while log_size(path) > 2**20:
        assert time.monotonic() < end
        await store.put(key(1), "x", created_at=1.0)


async def test_the_log_does_not_grow_with_the_puts(path: Path, store: SqliteStore) -> None:
    largest = 0
    for start in range(0, 4_000, 200):
        puts = (store.put(key(i), "x" * 5_000, created_at=1.0) for i in range(start, start + 200))
        await asyncio.gather(*puts)
        largest = max(largest, log_size(path))
    assert largest < 10_000_000 < await store.size_bytes()


# --- Failing ---


async def test_what_is_wrong_with_one_put_is_no_harm_to_others(store: SqliteStore) -> None:
    ages: list[float] = [1.0, float("nan"), 2.0]
    results = await asyncio.gather(
        *(store.put(key(age), "x", created_at=age) for age in ages), store.lease(key(9)), return_exceptions=True
    )
    assert [isinstance(result, StoreError) for result in results] == [False, True, False, False]
    assert "cache.db: NOT NULL" in str(results[1])
    assert set(await contents(store)) == {key(1.0), key(2.0)}


async def test_what_cannot_be_given_back_runs_out(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sqlite_file, "BUSY_SECONDS", 0.05)
    store = SqliteStore(path, lease_seconds=0.3)
    other = SqliteStore(path)
    assert await store.lease(key(1)) is True
    with raw(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError):
            await store.release(key(1))
        connection.execute("ROLLBACK")
    await leased(other, key(1))
    await store.close()
    await other.close()
