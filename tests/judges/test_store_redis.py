from __future__ import annotations

import asyncio
import gc
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from judges.store import StoreError
from judges.store_redis import RedisStore
from ruler.errors import ConfigError
from tests.judges.store_contract import StoreContract, contents, eventually, leased
from tests.judges.store_worker import ROOT, key
from tests.redis_server import RedisServer, redis_server_fixture  # noqa: F401 - pytest finds the fixture by its name

pytestmark = pytest.mark.slow


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.command("FLUSHALL")
    return redis_server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url)
    yield store
    await store.close()


class TestRedisStore(StoreContract):
    @pytest.fixture
    def place(self, server: RedisServer) -> str:
        return server.url


# --- The address ---


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://localhost/", "redis://localhost:6379/0"),
        ("redis://10.0.0.1:7000/3", "redis://10.0.0.1:7000/3"),
        ("rediss://cache.example.org:6380/0", "rediss://cache.example.org:6380/0"),
        ("redis://judge@cache:6379/1", "redis://cache:6379/1"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_the_location_is_the_address_without_user(url: str, location: str) -> None:
    store = RedisStore(url)
    assert store.location == location
    assert repr(store) == f"RedisStore('{location}')"


@pytest.mark.parametrize("url", ["redis://:s3cret@host:6379/0", "rediss://user:s3cret@host/0", "redis://:@host"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="RULER_REDIS_PASSWORD") as caught:
        RedisStore(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis:",
        "redis://",
        "redis:///0",
        "http://host:6379/0",
        "unix:///tmp/redis.sock",
        "redis://host:port/0",
        "redis://host:0/0",
        "redis://host:70000/0",
        "redis://host:6379/zero",
        "redis://host:6379/0/1",
        "redis://host:6379/-1",
        "redis://ho st:6379/0",
        "redis://host:6379/0\n",
        "redis://[::1/0",
        "redis://host:6379/0?password=s3cret",
        "redis://host:6379/0#s3cret",
        "redis//:s3cret@host:6379/0",
        "redis://:s3cret@[host:6379/0",
        "redis://u:s3cret/@host:port",
    ],
)
def test_other_addresses_are_refused_without_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match="redis|Redis") as caught:
        RedisStore(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_lease_seconds_must_be_positive(seconds: float) -> None:
    with pytest.raises(ConfigError, match="lease_seconds"):
        RedisStore("redis://host", lease_seconds=seconds)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigError, match=r"pip install 'ruler-judge\[redis\]'"):
        RedisStore("redis://host")


def test_importing_the_module_does_not_load_the_package() -> None:
    code = "import sys, judges.store_redis; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


# --- When the server is not as it should be ---


async def test_no_server_there() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}/0")
        for call in (
            store.get(key(1)),
            store.put(key(1), "x", created_at=1.0),
            store.add(key(1), "x", created_at=1.0),
            store.lease(key(1)),
            store.delete(),
            store.size_bytes(),
            contents(store),
        ):
            with pytest.raises(StoreError, match=f"127.0.0.1:{port}"):
                await call
        await store.release(key(1))
        await store.close()


async def test_the_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer("--requirepass", "s3cret") as server:
        monkeypatch.setenv("RULER_REDIS_PASSWORD", "s3cret")
        store = RedisStore(server.url)
        await store.put(key(1), "x", created_at=1.0)
        await store.close()
        for wrong in ("wr0ng", ""):
            monkeypatch.setenv("RULER_REDIS_PASSWORD", wrong)
            store = RedisStore(server.url)
            with pytest.raises(StoreError, match=f"127.0.0.1:{server.port}") as caught:
                await store.get(key(1))
            assert not wrong or wrong not in str(caught.value)
            await store.close()


@pytest.mark.slow
async def test_a_restart_between_calls_goes_unnoticed() -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        store = RedisStore(server.url)
        await asyncio.gather(*(store.put(key(i), str(i), created_at=1.0) for i in range(100)))
        server.stop()
        with pytest.raises(StoreError):
            await store.get(key(1))
        server.start()
        assert await asyncio.gather(*(store.get(key(i)) for i in range(100))) == [str(i) for i in range(100)]
        server.stop()
        server.start()
        await asyncio.gather(*(store.put(key(i), "again", created_at=1.0) for i in range(100)))
        assert len(await contents(store)) == 100
        await store.close()


async def test_what_is_not_ours_is_left_alone(server: RedisServer, store: RedisStore) -> None:
    await store.put(key(1), "x", created_at=1.0)
    for name in ("ruler:entry:short", f"ruler:entry:{key(2)}x", f"other:{key(3)}", "ruler:lease:x"):
        server.command("SET", name, "theirs")
    assert await contents(store) == {key(1): "x"}
    assert await store.delete() == 1
    assert server.command("DBSIZE") == "4"


async def test_an_unreadable_entry_disturbs_no_other(server: RedisServer, store: RedisStore) -> None:
    await store.put(key(1), "x", created_at=5.0)
    server.command("SET", f"ruler:entry:{key(2)}", "no hash")
    server.command("HSET", f"ruler:entry:{key(3)}", "created_at", "5.0")
    server.command("HSET", f"ruler:entry:{key(4)}", "text", "no age")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await store.get(key(2))
    assert await store.get(key(3)) is None
    assert await contents(store) == {key(1): "x", key(4): "no age"}
    assert await store.size_bytes() > 0
    assert await store.delete(older_than=3.0) == 2
    await store.put(key(2), "mended", created_at=1.0)
    assert await store.get(key(2)) == "mended"
    assert await store.delete() == 3


# --- Leases ---


async def test_a_lease_that_was_lost_to_another_is_left_to_it(server: RedisServer, store: RedisStore) -> None:
    names = [f"ruler:lease:{key(i)}" for i in range(2)]
    for i, name in enumerate(names):
        assert await store.lease(key(i)) is True
        server.command("SET", name, "somebody")
    await store.put(key(0), "x", created_at=1.0)
    await store.release(key(1))
    assert [server.command("GET", name) for name in names] == ["somebody", "somebody"]
    assert await store.lease(key(1)) is False


async def test_leases_are_renewed_while_they_are_ours(server: RedisServer) -> None:
    store = RedisStore(server.url, lease_seconds=0.3)
    ours, lost = (f"ruler:lease:{key(i)}" for i in range(2))
    assert await store.lease(key(0)) is True
    assert await store.lease(key(1)) is True
    server.command("SET", lost, "somebody", "PX", "600000")
    server.command("PEXPIRE", ours, "500000")
    await eventually(lambda: int(server.command("PTTL", ours)) <= 300)
    server.command("PEXPIRE", ours, "500000")
    await eventually(lambda: int(server.command("PTTL", ours)) <= 300)
    assert int(server.command("PTTL", lost)) > 300
    server.command("DEL", lost)
    await leased(store, key(1))  # it has noticed that the first one is gone
    await store.close()
    assert server.command("EXISTS", ours, lost) == "0"


async def test_nothing_runs_while_no_lease_is_held(store: RedisStore) -> None:
    await store.put(key(1), "x", created_at=1.0)
    assert not store._leases._timers
    assert await store.lease(key(2)) is True
    assert store._leases._timers
    assert len(asyncio.all_tasks()) == 1


def test_a_lease_ends_with_its_loop(server: RedisServer) -> None:
    store = RedisStore(server.url)
    asyncio.run(store.lease(key(1)))
    assert server.command("EXISTS", f"ruler:lease:{key(1)}") == "0"

    async def again() -> None:
        assert await store.lease(key(1)) is True
        await store.close()

    asyncio.run(again())


# --- Connections ---


def test_every_loop_leaves_nothing_behind(server: RedisServer) -> None:
    store = RedisStore(server.url)

    async def use() -> None:
        await asyncio.gather(*(store.get(key(i)) for i in range(100)))
        assert int(server.command("CLIENT", "LIST").count("addr=127.0.0.1")) <= 2 * 33

    for _ in range(3):
        asyncio.run(use())
    gc.collect()
    assert len(store._sessions._open) == 0
    assert server.command("CLIENT", "LIST").count("\n") == 1


async def test_cancelled_callers_mix_up_no_replies(server: RedisServer, store: RedisStore) -> None:
    await asyncio.gather(*(store.put(key(i), str(i), created_at=1.0) for i in range(100)))
    chance = random.Random(2)

    async def read(number: int) -> None:
        assert await store.get(key(number)) == str(number)

    tasks = [asyncio.create_task(read(i % 100)) for i in range(1_000)]
    for task in tasks:
        if chance.random() < 0.3:
            task.cancel()
        if chance.random() < 0.1:
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {type(None), asyncio.CancelledError}


async def test_more_callers_than_connections(server: RedisServer, store: RedisStore) -> None:
    texts = await asyncio.gather(*(store.get(key(i)) for i in range(2_000)))
    assert texts == [None] * 2_000
    assert int(server.command("CLIENT", "LIST").count("cmd=")) < 40


def test_a_fork_takes_no_leases_along(server: RedisServer) -> None:
    code = f"""
import asyncio, os
from judges.store_redis import RedisStore
store = RedisStore("{server.url}")
async def main():
    assert await store.lease("{key(1)}")
    if os.fork() == 0:
        os._exit(len(store._leases.all()))
    status = await asyncio.to_thread(os.wait)
    await store.close()
    print(status[1])
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "0"


def test_threads_do_not_share_connections(server: RedisServer) -> None:
    store = RedisStore(server.url)
    results: list[str | None] = []

    async def use() -> None:
        await store.put(key(threading.get_ident()), "x", created_at=1.0)
        results.append(await store.get(key(threading.get_ident())))

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["x"] * 8
