"""Results that `ruler score` wrote, found again for the groups they are of."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from gzip import BadGzipFile

from ruler.errors import ConfigError
from ruler.records import open_read
from ruler.results import read_result
from ruler.types import FailedGroup, Group, ScoredGroup


def stored_results(path: str, groups: Sequence[Group]) -> list[ScoredGroup | FailedGroup | None]:
    """What the file says of each group; None where it says nothing. Groups of its own that are not asked for are fine.

    Of a group that stands in it several times the last line counts.

    Raises:
        ConfigError: the file cannot be read, a line is no result, a result is of other rollouts than those of the
            group of its name, or none of the groups is in it.
    """
    found: dict[str, ScoredGroup | FailedGroup] = {}
    number = 0
    try:
        with open_read(path) as file:
            for line in file:
                number += 1
                if line.strip():
                    read = read_result(json.loads(line))
                    found[read.group_id] = read
    except (EOFError, zlib.error, BadGzipFile) as error:
        raise ConfigError(f"{path}: is damaged after line {number}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: line {number} is no scored group, as `ruler score --out` writes: {error}") from None
    results: list[ScoredGroup | FailedGroup | None] = []
    for group in groups:
        result: ScoredGroup | FailedGroup | None = found.get(group.id)
        if result is not None and result.rollouts_digest != group.rollouts_digest:
            raise ConfigError(
                f"{path}: group {group.id!r} was scored with other rollouts than it has now "
                f"(digest {result.rollouts_digest[:12]}, now {group.rollouts_digest[:12]})"
            )
        results.append(result)
    if groups and not any(results):
        raise ConfigError(f"{path}: holds none of the {len(groups)} groups, the first of which is {groups[0].id!r}")
    return results
