"""Settings from files, the environment and options; from them the judges, each in its stack of layers.

The only place of the library that knows the `judges` package, and it loads it only when a judge is wanted.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from ruler.errors import ConfigError
from ruler.spec import Around, Spec
from ruler.types import Judge

if TYPE_CHECKING:
    from judges.archive import Archive
    from judges.meter import Meter
    from judges.simulated import Quality
    from judges.store import Store

_NO_JUDGE = (
    "no judge: give one (--judge, or RULER_JUDGE in the environment), for example openai/gpt-5-mini with "
    "OPENAI_API_KEY set, or http://localhost:8000/v1#model for a server of your own; "
    "to try without a key: --judge embedded, a small model that knows the sums of examples/arithmetic.jsonl alone, or "
    "--judge simulated, which reads nothing"
)


def one_or_several(value: object) -> object:
    """Reads a SPEC or a list of SPECs, for fields that hold a tuple of them."""
    if not isinstance(value, str | list | tuple):
        raise PydanticCustomError("spec", "expected a SPEC or a list of SPECs")
    return (value,) if isinstance(value, str) else value


class Settings(BaseModel):
    """Who judges, and what a run may cost. `read_settings` makes it from a file, the environment and options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    in_environment: ClassVar[tuple[str, ...]] = ("judge", "cache")
    """Settings that the environment may give, under RULER_ and their name in capitals."""

    judge: tuple[StrictStr, ...] = ()
    """SPECs; several are a jury."""
    fallback: tuple[StrictStr, ...] = ()
    """SPECs of judges that are asked, in turn, when the one judge is unavailable or rejects a request."""
    policy: StrictStr | None = None
    """The model that wrote the rollouts, for a warning when a judge is of its family."""
    cache: StrictStr | None = None
    """A file, `redis://host:port/0`, or `off`; None: a file in the platform's cache folder."""
    cache_mode: Literal["use", "refresh", "readonly"] = "use"
    max_cost_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False, strict=True)
    max_total_tokens: StrictInt | None = Field(default=None, gt=0)

    _one_or_several = field_validator("judge", "fallback", mode="before")(one_or_several)


S = TypeVar("S", bound=Settings)
PART = "part"
"""The validation context of settings that others may still be added to: what they lack is no fault of theirs."""


def read_settings(path: Path | None = None, **given: object) -> Settings:
    """The settings of a TOML file, over them those of the environment, over them those given here.

    Args:
        path: a TOML file with the keys of `Settings`; None: the one that RULER_SETTINGS names, if any.
        given: by the names of `Settings`; None and an empty list leave a setting as it is.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value wrong; names all three.
    """
    return read_settings_of(Settings, path, given)


def read_settings_of(kind: type[S], path: Path | None, given: Mapping[str, object]) -> S:
    """As `read_settings`, for settings that have more to them.

    A value in the environment is read as TOML where it is that (`8`, `true`, `["a", "b"]`), else as text.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value wrong; names all three.
    """
    in_environment = os.environ.get("RULER_SETTINGS")
    named = path or (Path(in_environment) if in_environment else None)
    values: dict[str, Any] = {}
    for where, more in (
        (f"settings {named}: ", _toml(named) if named else {}),
        ("in the environment: ", {name: _from_environment(f"RULER_{name.upper()}") for name in kind.in_environment}),
        ("", given),
    ):
        wanted = {key: value for key, value in more.items() if value is not None and value != []}
        # Each part by itself first, so that an error can say where the wrong value stands.
        for key, value in _validated(kind, wanted, where, PART).model_dump(exclude_unset=True).items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return _validated(kind, values, f"settings {named}: " if named else "")


def _from_environment(name: str) -> object:
    text = os.environ.get(name, "").strip()
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text or None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"settings {path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"settings {path}: is not TOML: {error}") from error


def _validated(kind: type[S], values: Mapping[str, object], where: str, context: str | None = None) -> S:
    try:
        return kind.model_validate(values, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = f"; known are {', '.join(kind.model_fields)}" if len(first["loc"]) == 1 else ""
            raise ConfigError(f"{where}unknown setting {name!r}{known}") from None
        # What concerns several settings names them itself.
        said = f"{name}: {first['msg']}, got {first['input']!r:.80}" if name else first["msg"]
        raise ConfigError(where + said) from None


@dataclass(frozen=True)
class LoadedJudges:
    """The judges of a run, what they have spent, and where their replies are kept."""

    judges: tuple[Judge, ...]
    """One, or the members of a jury."""
    meter: Meter
    store: Store | None
    caches: tuple[Any, ...]
    """The `judges.cache.CachedJudge` of each stack."""
    closing: tuple[Any, ...]
    """Backends that hold an engine."""
    uncached: tuple[Judge, ...]
    """The same as `judges`, past the cache and without fallbacks: what is asked of them is asked every time."""

    @property
    def unreadable(self) -> int:
        """Cache entries that could not be used so far."""
        return sum(layer.unreadable for layer in self.caches)

    async def close(self) -> None:
        """Ends engines and gives the store back; what was awaited is kept."""
        try:
            for backend in self.closing:
                await asyncio.to_thread(backend.close)  # it waits for an engine's end
        finally:
            if self.store is not None:
                await self.store.close()


def load_judge(spec: str | None = None, *, truth: Quality | None = None) -> Judge:
    """The judge that a SPEC names, in its whole stack: cache, re-asks, retries, limits, meter.

    Args:
        spec: see docs/judges.md; None or empty: the environment's RULER_JUDGE.
        truth: what `simulated?quality=truth` scores by; only evaluation has it.

    Raises:
        ConfigError: no judge, an unknown one, a bad setting, a missing extra or key; names the value.
    """
    settings = read_settings(judge=(spec or "").strip() or None)
    loaded = load_judges(settings, truth=truth)
    if len(loaded.judges) > 1:
        raise ConfigError(f"judge: expected one, the settings name {len(loaded.judges)}")
    return loaded.judges[0]


def load_judges(
    settings: Settings, *, truth: Quality | None = None, ask: bool = True, beside: LoadedJudges | None = None
) -> LoadedJudges:
    """The judges that the settings name, each in a stack of its own, with one meter and one store.

    The stack, outermost first: cache, re-ask, retry, limits, meter, backend. A chain of fallbacks wraps whole stacks.

    Args:
        settings: who judges, and within which caps.
        truth: what `simulated?quality=truth` scores by.
        ask: False: only what the judges say of themselves is wanted; no key is needed and no cache is opened.
        beside: judges of the same run: these count on their meter, and where there is a cache it is theirs.

    Raises:
        ConfigError: as `load_judge`; fallbacks together with a jury; a cap on money with an unknown price.
    """
    specs = [text.strip() for text in settings.judge]
    if not any(specs):
        raise ConfigError(_NO_JUDGE)
    if not all((*specs, *(text.strip() for text in settings.fallback))):
        raise ConfigError("judge: one of the SPECs is empty")
    if settings.fallback and len(specs) > 1:
        raise ConfigError("fallback: stands in for one judge; a jury needs all of its members")
    will_be_asked = ask and settings.cache_mode != "readonly"
    # Where nothing can be spent no price need be known.
    meter = beside.meter if beside else _meter(settings if will_be_asked else Settings())
    store = _store(settings, beside) if ask else None
    stacks: list[Judge] = []
    backends: list[Any] = []
    for text in (*specs, *settings.fallback):
        spec = Spec.parse(text)
        backend = _backend(spec, truth, will_be_asked=will_be_asked)
        backends.append(backend)
        stacks.append(_stack(backend, spec.around, meter))
    uncached = tuple(stacks[: len(specs)])
    caches: tuple[Judge, ...] = ()
    if store is not None:
        stacks = [_cached(judge, store, settings.cache_mode) for judge in stacks]
        caches = tuple(stacks)
    if settings.fallback:
        stacks = [_judges_module("fallback").FallbackJudge(stacks)]
    closing = tuple(backend for backend in backends if hasattr(backend, "close"))
    return LoadedJudges(tuple(stacks), meter, store, caches, closing, uncached)


def wrap_judge(
    judge: Judge, options: str = "", *, settings: Settings | None = None, meter: Meter | None = None
) -> Judge:
    """A judge of your own in the whole stack: cache, re-asks, retries, limits, meter.

    Args:
        judge: an async callable. It is cached only with an `info` that tells what answers.
        options: how it is asked, as in a SPEC: `concurrency=8&attempts=3`.
        settings: where replies are kept and what may be spent; None: those of the environment.
        meter: counts for several judges together, within its own caps; None: one for this judge alone.

    Raises:
        ConfigError: a bad option, a cache that cannot be opened, a cap on money with an unknown price.
    """
    chosen = settings or read_settings()
    meter = meter or _meter(chosen)
    store = _store(chosen)
    stack = _stack(judge, Around.parse(options), meter)
    return stack if store is None else _cached(stack, store, chosen.cache_mode)


def _store(settings: Settings, beside: LoadedJudges | None = None) -> Store | None:
    shared = beside is not None and beside.store is not None and settings.cache != "off"
    store = beside.store if beside and shared else open_store(settings.cache)
    if store is None and settings.cache_mode != "use":
        raise ConfigError(f"cache_mode {settings.cache_mode!r}: there is no cache (cache = 'off')")
    return store


def _meter(settings: Settings) -> Meter:
    meter: Meter = _judges_module("meter").Meter(
        max_cost_usd=settings.max_cost_usd, max_total_tokens=settings.max_total_tokens
    )
    return meter


def _stack(judge: Judge, around: Around, meter: Meter) -> Judge:
    """All layers but the cache, which goes around them."""
    # The meter sees every attempt. The limits see every attempt, too, and hold no place while a retry waits. The re-ask
    # is under the cache, so that the first usable reply is kept under the question that was asked.
    limits = _judges_module("limits")
    judge = _judges_module("meter").MeteredJudge(judge, meter)
    judge = limits.LimitedJudge(judge, limits.Limits(**around.limits))
    judge = _judges_module("retry").RetryingJudge(judge, **around.retry)
    judge = _judges_module("reask").ReaskingJudge(judge, max_reasks=around.max_reasks)
    return judge


def _cached(judge: Judge, store: Store, cache_mode: str) -> Judge:
    cached: Judge = _judges_module("cache").CachedJudge(judge, store, mode=cache_mode)
    return cached


def open_store(location: str | None = None) -> Store | None:
    """Where replies are kept.

    Args:
        location: a path, `redis://host:port/0`, or `off`; None or empty: a file in the platform's cache folder.

    Returns:
        None when it is off.

    Raises:
        ConfigError: it cannot be opened, or is something else.
    """
    location = (location or "").strip()
    scheme, separator, _ = location.partition("://")
    if location.lower() == "off":
        return None
    store: Store
    if separator:
        if scheme.lower() not in ("redis", "rediss"):
            # Not repeated: a password may stand in it.
            raise ConfigError("cache: expected a file, redis://host:port/0, rediss://… or off, got another address")
        store = _judges_module("store_redis").RedisStore(f"{scheme.lower()}{location[len(scheme) :]}")
    else:
        store = _judges_module("store_sqlite").SqliteStore(Path(location) if location else _default_path())
    return store


def open_archive(location: str | None = None) -> Archive:
    """The store as a whole: to count, clear, export and import it.

    Raises:
        ConfigError: as `open_store`; or it is off.
    """
    store = open_store(location)
    if store is None:
        raise ConfigError("cache: it is off; give --cache, or set RULER_CACHE")
    archive: Archive = _judges_module("archive").Archive(store)
    return archive


def _default_path() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("ruler-judge", appauthor=False) / "replies.sqlite3"


def _backend(spec: Spec, truth: Quality | None, *, will_be_asked: bool) -> Judge:
    module = _judges_module(spec.kind)
    judge: Judge
    if spec.kind == "simulated":
        judge = _simulated(module, dict(spec.backend), truth)
    elif spec.kind == "litellm":
        judge = module.LiteLLMJudge(
            model=spec.model,
            base_url=spec.base_url,
            sampling=spec.sampling,
            require_key=will_be_asked,
            **spec.backend,
        )
    elif spec.kind == "vllm":
        judge = module.VLLMJudge(spec.model, sampling=spec.sampling, engine=spec.engine, **spec.backend)
    elif spec.kind == "transformers":
        judge = module.TransformersJudge(spec.model, **spec.backend)
    else:
        judge = module.EmbeddedJudge(spec.model or None)
    return judge


def _simulated(module: ModuleType, values: dict[str, Any], truth: Quality | None) -> Judge:
    feature = values.pop("quality", "length")
    features: dict[str, Quality] = dict(module.FEATURES)
    if truth:
        features["truth"] = truth
    if feature not in features:
        hint = " (`ruler evaluate`, `ruler audit` and the trainer know it)" if feature == "truth" else ""
        raise ConfigError(f"simulated: quality: expected one of {', '.join(features)}, got {feature!r}{hint}")
    judge: Judge = module.SimulatedJudge(features[feature], quality_name=feature, behaviour=module.Behaviour(**values))
    return judge


def _judges_module(name: str) -> ModuleType:
    """`judges.NAME` of ours; PyPI has other packages that install a top-level `judges`."""
    ours = Path(__file__).resolve().parents[1] / "judges"
    try:
        package = importlib.import_module("judges")
    except ImportError as error:
        raise ConfigError(f"the package `judges` cannot be imported: {error}{_owned_by(_other_owners())}") from error
    found = Path(package.__file__ or "").resolve().parent
    if found != ours:
        owned = _owned_by(_other_owners())
        raise ConfigError(f"the imported package `judges` is another one: {found}{owned}; use a clean environment")
    if mixed := _other_owners(ours):
        raise ConfigError(f"the folder {ours} is mixed with another package{_owned_by(mixed)}; use a clean environment")
    return importlib.import_module(f"judges.{name}")


@cache
def _other_owners(folder: Path | None = None) -> tuple[str, ...]:
    """Distributions but ours that have a `judges` package; in this folder, when one is given."""
    names = set(importlib.metadata.packages_distributions().get("judges", ())) - {"ruler-judge"}
    if folder is None:
        return tuple(sorted(names))
    places = {name: importlib.metadata.distribution(name).locate_file("judges") for name in names}
    return tuple(sorted(name for name, place in places.items() if Path(str(place)).resolve() == folder))


def _owned_by(distributions: tuple[str, ...]) -> str:
    return f", which belongs to {' and '.join(distributions)}" if distributions else ""
