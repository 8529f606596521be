"""The judges and rubrics that the operator configured, by the names under which requests choose them."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ruler.config import LoadedJudges, load_judges
from ruler.errors import ConfigError
from ruler.rubric import DEFAULT_RUBRIC, Rubric
from ruler.scoring import Ruler
from ruler.service.problems import Problem
from ruler.service.settings import DEFAULT, ServiceSettings
from ruler.tokens import token_counter
from ruler.types import Judge, Usage, judge_info

_log = logging.getLogger("ruler.service")

Packer: TypeAlias = tuple[str | None, Ruler, Callable[[str], int]]


class Scorers:
    """A `Ruler` for each judge and rubric. All judges have one meter and one cache.

    Attributes:
        judges: by name. "default" is missing where the settings have named judges only.
        rubrics: by name.

    Raises:
        ConfigError: there is no judge, or a judge or rubric cannot be had.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self.rubrics: Mapping[str, Rubric] = {
            DEFAULT: DEFAULT_RUBRIC if settings.rubric is None else Rubric.load(settings.rubric),
            **{name: Rubric.load(path) for name, path in settings.rubrics.items()},
        }
        self.judges = self._load()
        self._rulers = {
            # It is the judge that is warned of, once for all rubrics.
            (judge, rubric): self._ruler(
                judge, loaded.judges, self.rubrics[rubric], policy=self._policy(judge) if rubric == DEFAULT else None
            )
            for judge, loaded in self.judges.items()
            for rubric in self.rubrics
        }
        self._packers: dict[tuple[str, str], list[Packer]] = {}
        self._packers_lock = threading.Lock()

    def choose(self, judge: str | None, rubric: str | None) -> tuple[str, str]:
        """The names of judge and rubric; None is "default".

        Raises:
            Problem: `not_found`, there is none of this name.
        """
        chosen = (judge or DEFAULT, rubric or DEFAULT)
        for kind, name, known in zip(("judge", "rubric"), chosen, (self.judges, self.rubrics), strict=True):
            if name not in known:
                raise Problem("not_found", f"{kind}: there is none called {name!r:.80}; there are {', '.join(known)}")
        return chosen

    def ruler(self, judge: str, rubric: str) -> Ruler:
        """The scorer for two names that `choose` gave."""
        return self._rulers[judge, rubric]

    def packers(self, judge: str, rubric: str) -> list[Packer]:
        """For each judge that would be asked: its name where there are several, a scorer, and a tokenizer.

        Safe in threads.
        """
        # Made when they are first wanted: a tokenizer takes half a second and tens of megabytes, and few ever pack.
        with self._packers_lock:
            if (judge, rubric) not in self._packers:
                members = self.judges[judge].judges
                infos = [judge_info(member) for member in members]
                self._packers[judge, rubric] = [
                    (
                        info.name if len(members) > 1 else None,
                        Ruler(member, rubric=self.rubrics[rubric], **self._options(judge)),
                        token_counter(info)[1],
                    )
                    for member, info in zip(members, infos, strict=True)
                ]
            return self._packers[judge, rubric]

    def uncached(self) -> Mapping[str, Ruler]:
        """By judge, scorers with the default rubric that ask every time; what they spend counts like all else."""
        rubric = self.rubrics[DEFAULT]
        return {name: self._ruler(name, loaded.uncached, rubric) for name, loaded in self.judges.items()}

    @property
    def usage(self) -> Usage:
        """What all judges have taken so far."""
        return next(iter(self.judges.values())).meter.usage

    async def close(self) -> None:
        """Ends engines and gives the cache back; what was awaited is kept. One that ends badly is no reason to stay."""
        for name, loaded in self.judges.items():
            try:
                await loaded.close()
            except Exception:  # noqa: BLE001  the others are to be closed
                _log.exception("judge %s: could not be closed", name)

    def _load(self) -> dict[str, LoadedJudges]:
        top = self._settings
        chosen = {name: (named.judge, named.fallback) for name, named in top.judges.items()}
        if any(top.judge) or not chosen:
            chosen = {DEFAULT: (top.judge, top.fallback), **chosen}
        loaded: dict[str, LoadedJudges] = {}
        beside: LoadedJudges | None = None
        for name, (judge, fallback) in chosen.items():
            try:
                settings = top.model_copy(update={"judge": judge, "fallback": fallback})
                beside = loaded[name] = load_judges(settings, beside=beside)
            except ConfigError as error:
                raise error if name == DEFAULT else ConfigError(f"judges.{name}: {error}") from error
        return loaded

    def _options(self, name: str) -> dict[str, Any]:
        return self._settings.scoring(name).model_dump()

    def _policy(self, name: str) -> str | None:
        return self._settings.judges[name].policy if name != DEFAULT else self._settings.policy

    def _ruler(self, name: str, judges: tuple[Judge, ...], rubric: Rubric, *, policy: str | None = None) -> Ruler:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                ruler = Ruler(judges, rubric=rubric, policy=policy, **self._options(name))
        except ConfigError as error:
            raise error if name == DEFAULT else ConfigError(f"judges.{name}: {error}") from error
        for warning in caught:
            _log.warning("judge %s: %s", name, warning.message)
        return ruler
