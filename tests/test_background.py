from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from ruler.background import run_in_background


async def loop_id() -> int:
    return id(asyncio.get_running_loop())


def test_all_callers_share_one_loop() -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(run_in_background(loop_id()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


async def test_it_works_inside_a_running_loop() -> None:
    assert run_in_background(loop_id()) != id(asyncio.get_running_loop())


def test_errors_come_through() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_in_background(fail())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    # In a process of its own: forking this one, with its threads, would be a test of pytest.
    code = """
import os, sys
from ruler.background import run_in_background
async def one(): return 1
run_in_background(one())
child = os.fork()
if child == 0:
    os._exit(0 if run_in_background(one()) == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-W", "ignore", "-c", code]) == 0


def test_a_task_inside_that_would_end_the_process_leaves_the_loop_alive() -> None:
    async def inner() -> None:
        raise SystemExit(1)

    async def outer() -> None:
        await asyncio.create_task(inner())

    with pytest.raises(RuntimeError, match="tried to end the process with SystemExit"):
        run_in_background(outer())
    assert run_in_background(asyncio.sleep(0, "alive")) == "alive"
