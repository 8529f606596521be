"""The system's Chromium, driven by playwright, and an application it can open: real sockets on the loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import Browser, sync_playwright
from starlette.types import ASGIApp

_START_SECONDS = 30.0


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; without one the test is skipped, in CI it fails."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium")
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        # No sandbox: containers seldom allow one, and the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serving(app: ASGIApp) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """The application's address, and the loop it runs on, in a thread of its own."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        started = threading.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            started.set()
            await server.serve(sockets=[bound])

        with warnings.catch_warnings():
            thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
            thread.start()
        assert started.wait(_START_SECONDS)
        try:
            # The socket listens as soon as the server runs; until then connections wait in its queue.
            bound.listen()
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", loops[0]
        finally:
            server.should_exit = True
            thread.join(_START_SECONDS)
