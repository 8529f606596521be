"""What every store does; `test_store_sqlite` and `test_store_redis` run it against theirs."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from judges.store import Store
from tests.judges.store_worker import Worker, key, open_place

Opener = Callable[..., Store]


async def eventually(check: Callable[[], object]) -> None:
    """Waits until it holds, however slow the machine; without end it would be a hang."""
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def leased(store: Store, name: str) -> None:
    """Waits for the lease, as long."""
    for _ in range(3_000):
        if await store.lease(name):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the lease does not become free")


async def contents(store: Store) -> dict[str, str]:
    entries = [entry async for entry in store.entries()]
    assert len(dict(entries)) == len(entries)
    return dict(entries)


class StoreContract:
    """Subclasses give the fixture `place`: a fresh path or address."""

    @pytest.fixture
    def place(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    async def open_store(self, place: str) -> AsyncIterator[Opener]:
        """Opens the place, as another process would; closes everything at the end."""
        opened: list[Store] = []

        def open_store(**options: float) -> Store:
            opened.append(open_place(place, **options))
            return opened[-1]

        yield open_store
        for store in opened:
            await store.close()

    @pytest.fixture
    def store(self, open_store: Opener) -> Store:
        return open_store()

    # --- Entries ---

    async def test_what_was_put_is_there_for_everybody(self, store: Store, open_store: Opener) -> None:
        assert await store.get(key(1)) is None
        await store.put(key(1), "one", created_at=1.0)
        await store.put(key(2), "two", created_at=2.0)
        for reader in (store, open_store()):
            assert await reader.get(key(1)) == "one"
            assert await reader.get(key(2)) == "two"
            assert await reader.get(key(3)) is None

    async def test_put_replaces(self, store: Store) -> None:
        for text in ("a longer text", "short", ""):
            await store.put(key(1), text, created_at=1.0)
            assert await store.get(key(1)) == text
        assert await contents(store) == {key(1): ""}

    @pytest.mark.parametrize(
        "text", ["", "\0 a \0", "ä 漢 🙂 \u202e", "line\r\nline\n", "0", "x" * 2**20], ids=lambda text: repr(text)[:20]
    )
    async def test_text_comes_back_as_it_was(self, store: Store, text: str) -> None:
        await store.put(key(1), text, created_at=1.0)
        assert await store.get(key(1)) == text
        assert await contents(store) == {key(1): text}

    @pytest.mark.parametrize("bad", ["", "abc", key(1).upper(), key(1)[:-1], key(1) + "0", key(1) + "\n", " " + key(1)])
    async def test_a_key_is_64_hexadecimal_digits(self, store: Store, bad: str) -> None:
        for call in (
            store.get(bad),
            store.put(bad, "x", created_at=1.0),
            store.add(bad, "x", created_at=1.0),
            store.lease(bad),
            store.release(bad),
        ):
            with pytest.raises(ValueError, match="key"):
                await call
        assert await contents(store) == {}

    async def test_text_that_is_no_unicode_is_refused_and_harms_nobody(self, store: Store) -> None:
        good = [store.put(key(i), "x", created_at=1.0) for i in range(5)]
        bad = [store.put(key(9), "\ud800", created_at=1.0), store.add(key(9), "\ud800", created_at=1.0)]
        results = await asyncio.gather(*good, *bad, return_exceptions=True)
        assert results[:5] == [None] * 5
        assert all(isinstance(error, ValueError) for error in results[5:])
        assert len(await contents(store)) == 5

    async def test_add_keeps_what_is_there(self, store: Store) -> None:
        assert await store.add(key(1), "first", created_at=1.0) is True
        assert await store.add(key(1), "second", created_at=2.0) is False
        assert await store.get(key(1)) == "first"
        assert await store.delete(older_than=1.5) == 1

    async def test_many_entries_come_out_each_once(self, store: Store, open_store: Opener) -> None:
        put = {key(i): str(i) for i in range(1_000)}
        await asyncio.gather(*(store.put(name, text, created_at=float(text)) for name, text in put.items()))
        assert await contents(store) == put
        assert await contents(open_store()) == put

    async def test_entries_that_come_and_go_meanwhile_disturb_nothing(self, store: Store) -> None:
        await asyncio.gather(*(store.put(key(i), str(i), created_at=i) for i in range(500)))
        seen = set()
        async for name, _ in store.entries():
            if not seen:
                assert await store.delete(older_than=100.0) == 100
                await store.put(key(499), "again", created_at=499.0)
                await store.put(key("new"), "new", created_at=500.0)
            assert name not in seen
            seen.add(name)
        assert seen >= {key(i) for i in range(100, 500)}

    async def test_entries_may_be_left_in_the_middle(self, store: Store) -> None:
        await asyncio.gather(*(store.put(key(i), str(i), created_at=i) for i in range(500)))
        async for _ in store.entries():
            break
        assert await store.delete() == 500

    async def test_delete_by_age(self, store: Store) -> None:
        await asyncio.gather(*(store.put(key(i), str(i), created_at=float(i)) for i in range(300)))
        await store.put(key(0), "younger now", created_at=1e9)
        assert await store.delete(older_than=0.0) == 0
        assert await store.delete(older_than=100.0) == 99
        assert await store.delete(older_than=100.0) == 0
        assert await contents(store) == {key(0): "younger now"} | {key(i): str(i) for i in range(100, 300)}
        assert await store.delete() == 201
        assert await store.delete() == 0
        assert await contents(store) == {}

    async def test_size_follows_what_is_kept(self, store: Store) -> None:
        empty = await store.size_bytes()
        await asyncio.gather(*(store.put(key(i), "x" * 10_000, created_at=1.0) for i in range(300)))
        assert await store.size_bytes() > empty + 300 * 10_000
        await store.delete()
        assert await store.size_bytes() < empty + 100_000

    # --- Leases ---

    async def test_one_has_the_lease(self, store: Store, open_store: Opener) -> None:
        other = open_store()
        assert await store.lease(key(1)) is True
        assert await store.lease(key(1)) is False
        assert await other.lease(key(1)) is False
        assert await other.lease(key(2)) is True
        assert await store.lease(key(2)) is False

    async def test_many_ask_at_once(self, store: Store, open_store: Opener) -> None:
        other = open_store()
        won = await asyncio.gather(*(one.lease(key(i % 20)) for i in range(200) for one in (store, other)))
        assert sum(won) == 20

    async def test_release_frees(self, store: Store, open_store: Opener) -> None:
        other = open_store()
        await store.release(key(1))
        for holder, waiter in ((store, other), (other, store)):
            assert await holder.lease(key(1)) is True
            await waiter.release(key(1))
            assert await waiter.lease(key(1)) is False
            await holder.release(key(1))
            await holder.release(key(1))

    async def test_put_frees_its_own_lease_alone(self, store: Store, open_store: Opener) -> None:
        other = open_store()
        assert await store.lease(key(1)) is True
        await other.put(key(1), "x", created_at=1.0)
        await other.add(key(1), "x", created_at=1.0)
        assert await other.lease(key(1)) is False
        await store.put(key(1), "y", created_at=1.0)
        assert await other.lease(key(1)) is True

    async def test_a_cancelled_caller_has_no_lease(self, store: Store, open_store: Opener) -> None:
        other = open_store()
        tasks = [asyncio.create_task(store.lease(key(i))) for i in range(100)]
        chance = random.Random(1)
        for task in tasks:
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random() * 0.002)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, result in enumerate(results):
            if result is True:
                assert await other.lease(key(i)) is False
            else:
                await leased(other, key(i))

    async def test_a_cancelled_put_is_kept(self, store: Store) -> None:
        assert await store.lease(key(1)) is True
        tasks = [asyncio.create_task(store.put(key(i), "x", created_at=1.0)) for i in range(50)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await leased(store, key(1))
        await store.close()
        assert len(await contents(store)) == 50

    async def test_closing_gives_leases_back_and_the_store_opens_again(self, store: Store, open_store: Opener) -> None:
        other = open_store()
        assert await store.lease(key(1)) is True
        await store.put(key(2), "x", created_at=1.0)
        await store.close()
        await store.close()
        assert await other.lease(key(1)) is True
        assert await store.get(key(2)) == "x"
        assert await store.lease(key(1)) is False
        assert await store.lease(key(3)) is True

    async def test_closing_finishes_what_is_queued(self, store: Store) -> None:
        puts = [asyncio.create_task(store.put(key(i), "x", created_at=1.0)) for i in range(50)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*puts)
        assert len(await contents(store)) == 50

    @pytest.mark.slow
    async def test_a_lease_is_renewed(self, open_store: Opener) -> None:
        store, other = open_store(lease_seconds=2.0), open_store(lease_seconds=2.0)
        assert await store.lease(key(1)) is True
        for _ in range(30):
            await asyncio.sleep(0.1)
            assert await other.lease(key(1)) is False
        await store.release(key(1))
        assert await other.lease(key(1)) is True

    # --- Loops, threads, processes ---

    async def test_several_loops_share_one_store(self, store: Store) -> None:
        won: list[bool] = []
        errors: list[BaseException] = []

        async def work(number: int) -> None:
            for i in range(30):
                await store.put(key(f"{number}-{i}"), str(i), created_at=1.0)
                assert await store.get(key(f"{number}-{i}")) == str(i)
            won.extend([await store.lease(key(i)) for i in range(10)])

        def run(number: int) -> None:
            try:
                for _ in range(2):
                    asyncio.run(work(number))
            except BaseException as error:  # noqa: BLE001 - it is seen below
                errors.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert errors == []
        assert sum(won) >= 10
        assert len(await contents(store)) == 120

    async def test_a_lease_can_be_given_back_from_another_loop(self, store: Store, open_store: Opener) -> None:
        assert await store.lease(key(1)) is True
        await asyncio.to_thread(lambda: asyncio.run(store.release(key(1))))
        assert await open_store().lease(key(1)) is True

    @pytest.mark.slow
    async def test_a_lease_of_a_killed_process_becomes_free(self, place: str, store: Store) -> None:
        with Worker(place, "hold", 2.0) as worker:
            assert worker.line() == "True"
            assert await store.lease(key("held")) is False
            worker.kill()
        await leased(store, key("held"))

    @pytest.mark.slow
    def test_one_holder_at_any_time(self, place: str, tmp_path: Path) -> None:
        folder = tmp_path / "held"
        folder.mkdir()
        workers = [Worker(place, "contend", folder, 200) for _ in range(4)]
        assert [worker.line() for worker in workers] == ["ready"] * 4
        for worker in workers:
            worker.tell()
        assert [worker.line() for worker in workers] == ["200 0"] * 4
        for worker in workers:
            assert worker.rest() == []
            worker.__exit__(None, None, None)
