"""`ruler cache`: what is kept, how to remove it, and how to carry it to another machine."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from ruler.cli.arguments import CacheOption, SettingsOption
from ruler.cli.tables import cache_table, say, show
from ruler.config import open_archive, read_settings
from ruler.errors import ConfigError
from ruler.records import copy_stream, open_read
from ruler.results import json_line, usage_record

if TYPE_CHECKING:
    from pathlib import Path

    from judges.archive import Archive

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="Show, clear, export and import the replies that are kept.")


@app.command()
def stats(
    cache: CacheOption = None,
    settings: SettingsOption = None,
    json_stats: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Count what is kept: entries, size, age, and by judge what the replies once took."""
    found = _with_archive(cache, settings, lambda archive: archive.stats())
    figures = {
        "location": found.location,
        "entries": found.entries,
        "unreadable": found.unreadable,
        "size_bytes": found.size_bytes,
        "oldest": _date(found.oldest),
        "newest": _date(found.newest),
        "judges": {
            name: {"entries": count, "usage": usage_record(usage)} for name, (count, usage) in found.judges.items()
        },
    }
    if json_stats:
        typer.echo(json.dumps(figures, ensure_ascii=False))
        return
    size = f"{found.size_bytes / 1e6:,.1f} MB" if found.size_bytes >= 1e6 else f"{found.size_bytes / 1e3:,.0f} kB"
    kept = f"{found.entries:,} replies, {size}"
    age = f", kept from {figures['oldest']} to {figures['newest']}" if found.oldest is not None else ""
    say(f"{found.location}: {kept}{age}")
    if found.unreadable:
        say(f"{found.unreadable} of them cannot be read: they will be asked again when they are needed")
    if found.judges:
        show(cache_table(found.judges))


@app.command()
def clear(
    cache: CacheOption = None,
    settings: SettingsOption = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Only what was kept longer ago: 30d, 12h, 90m, 45s.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove replies; what is removed is asked and paid for again when it is needed."""
    before = None if older_than is None else time.time() - _seconds(older_than)
    what = "all replies" if older_than is None else f"replies kept longer than {older_than} ago"

    async def remove(archive: Archive) -> int:
        if not yes and not sys.stdin.isatty():
            raise ConfigError(f"cache clear: would remove {what} from {archive.location}; say --yes")
        if not yes:
            typer.confirm(f"Remove {what} from {archive.location}?", abort=True)
        return await archive.clear(older_than=before)

    say(f"{_with_archive(cache, settings, remove):,} replies removed")


@app.command()
def export(
    out: Annotated[str, typer.Argument(help="JSONL file to write; .gz is compressed; - is standard output.")] = "-",
    cache: CacheOption = None,
    settings: SettingsOption = None,
) -> None:
    """Write every reply as one JSON line, for `ruler cache import` elsewhere. It holds no prompts and no keys."""

    async def write(archive: Archive) -> tuple[int, int]:
        written = 0
        with _open_out(out, archive.location) as file:
            async for record in archive.export():
                file.write(json_line(record))
                written += 1
        return written, archive.unreadable

    written, unreadable = _with_archive(cache, settings, write)
    left_out = f"; {unreadable:,} that cannot be read were left out" if unreadable else ""
    say(f"{written:,} replies written{left_out}", err=True)


@app.command(name="import")
def import_(
    source: Annotated[str, typer.Argument(help="File that `ruler cache export` wrote; .gz; - is standard input.")],
    cache: CacheOption = None,
    settings: SettingsOption = None,
) -> None:
    """Take in what `ruler cache export` wrote. Replies that are there already stay; a broken line stops it."""

    async def read(archive: Archive) -> tuple[int, int]:
        added = known = 0
        with open_read(source) as file:
            for number, line in enumerate(file, 1):
                try:
                    taken = await archive.add(json.loads(line)) if line.strip() else None
                except ConfigError:
                    raise
                except (ValueError, RecursionError) as error:
                    so_far = f"; {added:,} replies before it were added" if added else ""
                    raise ConfigError(f"{source}: line {number}: no exported reply: {error}{so_far}") from error
                added += taken is True
                known += taken is False
        return added, known

    added, known = _with_archive(cache, settings, read)
    say(f"{added:,} replies added, {known:,} were there already")


def _with_archive(cache: str | None, settings: Path | None, work: Callable[[Archive], Awaitable[T]]) -> T:
    archive = open_archive(read_settings(settings, cache=cache).cache)

    async def run() -> T:
        try:
            return await work(archive)
        finally:
            await archive.close()

    return asyncio.run(run())


@contextmanager
def _open_out(path: str, location: str) -> Iterator[IO[bytes]]:
    """The file, which has its name only once it is whole; a device or a pipe is written into as it is."""
    if path == "-":
        with copy_stream(sys.stdout, "wb") as stdout:
            yield stdout
        return
    path = os.path.realpath(path)
    if path in {os.path.realpath(f"{location}{suffix}") for suffix in ("", "-wal", "-shm")}:
        raise ConfigError(f"{path}: is the cache itself")
    in_place = os.path.exists(path) and not os.path.isfile(path)
    written = path if in_place else f"{path}.{os.getpid()}.tmp"
    try:
        with open(written, "wb") as raw:
            if path.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw, mode="wb") as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield raw
        if not in_place:
            os.replace(written, path)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if not in_place:
            with suppress(FileNotFoundError):
                os.unlink(written)


_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", text.strip())
    if not found:
        raise ConfigError(f"--older-than: expected a number with d, h, m or s, such as 30d, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def _date(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
