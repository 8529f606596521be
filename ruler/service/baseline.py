"""The file that holds what judges said of the golden groups: digests and numbers, neither text nor ids."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ruler.errors import ConfigError


class BaselineScores(BaseModel):
    """What one judge said."""

    model_config = ConfigDict(extra="forbid")

    made_by: dict[str, Any]
    """All that makes scores comparable, ready for JSON."""
    models: list[str] = []
    """The models that answered, in the backend's words."""
    groups: dict[str, list[list[float]]] = {}
    """`Group.rollouts_digest` -> runs -> scores, sorted by rollout id."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    judges: dict[str, BaselineScores]


class Baseline:
    """The baselines of all judges, in memory and in one file.

    Raises:
        ConfigError: the file is there and is no baseline, or cannot be written; names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.access(path.parent, os.W_OK):
            raise ConfigError(f"golden: the baseline {path} cannot be written there")
        try:
            self._judges = _File.model_validate_json(path.read_bytes()).judges
        except FileNotFoundError:
            self._judges = {}
        except OSError as error:
            raise ConfigError(f"golden: the baseline {path} cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            raise ConfigError(
                f"golden: {path} is no baseline of ours: {error.errors()[0]['msg']}; move it away to have one made"
            ) from None

    def others(self, judge: str, made_by: Mapping[str, Any]) -> list[str]:
        """In what the judge's baseline was made by something else; empty where there is none."""
        found = self._judges.get(judge)
        return [key for key, value in made_by.items() if found.made_by.get(key) != value] if found else []

    def scores(self, judge: str, made_by: Mapping[str, Any]) -> BaselineScores:
        """The judge's baseline; one without groups where there is none, or another one."""
        found = self._judges.get(judge)
        return found if found and not self.others(judge, made_by) else BaselineScores(made_by=dict(made_by))

    def save(self, judge: str, scores: BaselineScores) -> None:
        """Puts it in place of what was there, in the file all or nothing.

        Raises:
            OSError: the file cannot be written; in memory it is there.
        """
        self._judges[judge] = scores
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(_File(judges=self._judges).model_dump(mode="json"), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
