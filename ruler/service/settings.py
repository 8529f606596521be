"""What the service is told by its TOML file, the environment and flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ruler.config import PART, Settings, one_or_several, read_settings_of
from ruler.orders import Orders
from ruler.plan import MAX_BLOCK

DEFAULT = "default"
"""Name of the judge, and of the rubric, that a request gets when it names none."""

Name = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[StrictInt, Field(ge=1)]


class ScoringSettings(BaseModel):
    """How a group is shown to a judge, by the names of `ruler.Ruler`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: Orders = 1
    adaptive: StrictBool = False
    min_orders: _Count | None = None
    max_block: StrictInt = Field(default=MAX_BLOCK, ge=2)
    context_tokens: _Count | None = None
    notes: StrictBool = True
    reasoning: StrictBool = False
    reference: StrictBool = False
    shared_text: StrictBool = True
    absolute: StrictBool = False
    """Whether a group of one is scored; else it fails."""


class NamedJudge(ScoringSettings):
    """A judge that requests may choose by its name. What it leaves out of `ScoringSettings` is as at the top."""

    judge: tuple[StrictStr, ...]
    """SPEC; several are a jury."""
    fallback: tuple[StrictStr, ...] = ()
    policy: StrictStr | None = None

    _one_or_several = field_validator("judge", "fallback", mode="before")(one_or_several)


class ServiceSettings(Settings, ScoringSettings):
    """All that a service can be told. `read_service_settings` makes it from a file, the environment and flags.

    The keys of `Settings` and `ScoringSettings` are those of the judge called "default"; the cache and the caps on
    money and tokens are those of all judges together, as long as the process lives.
    """

    host: StrictStr = "127.0.0.1"
    port: StrictInt = Field(default=8000, ge=0, le=65535)
    """0: any that is free."""
    judges: Mapping[Name, NamedJudge] = {}
    """More judges, by the names under which requests choose them."""
    rubric: Path | None = None
    """The rubric called "default"; None: the one that comes with the library."""
    rubrics: Mapping[Name, Path] = {}
    """More rubrics, by the names under which requests choose them."""
    keys: Mapping[Name, StrictStr] = {}
    """Who may call: a name, and the environment variable that holds the bearer key."""
    operators: tuple[Name, ...] = ()
    """Names of keys that see everybody's groups."""
    no_auth: StrictBool = False
    """Whether anybody may call. Without keys this is needed unless `host` is a loopback address."""
    content: StrictBool = True
    """Whether rollouts, notes and messages that may quote them are kept for the dashboard and `/v1/groups`."""
    concurrency: _Count = 32
    """Groups that are judged at once."""
    queue: _Count = 256
    """Requests that wait for one of these places; the next is told 503."""
    requests_per_minute: _Count | None = None
    """Groups taken in any 60 seconds; the next is told 429."""
    tokens_per_minute: _Count | None = None
    """Tokens asked and answered in any 60 seconds: estimated when a group comes, corrected when it is judged."""
    max_body_bytes: _Count = 16 * 2**20
    """One request's body; of a batch one line."""
    max_buffered_bytes: _Count = 256 * 2**20
    """All bodies that are being read or worked on; the next is told 503."""
    max_requests: _Count = 16_384
    """Requests at once, held ones included; the next is told 503."""
    max_rollouts: _Count = 128
    """Rollouts in a group."""
    collect_seconds: _Seconds = 600.0
    """How long a rollout waits for its siblings, from the first of them."""
    judge_seconds: _Seconds = 300.0
    """How long callers wait for a judged group once it is complete."""
    short_groups: Literal["score", "fail"] = "score"
    """What happens to a group that is not complete in time: at least two are scored, or it fails."""
    keep_seconds: _Seconds = 3600.0
    """How long the result of a group that met here is there to be asked for again."""
    max_held_groups: _Count = 8192
    """Groups that are waiting for rollouts, being judged, or kept."""
    max_held_bytes: _Count = 256 * 2**20
    """Bodies of the rollouts of groups that are waiting or being judged."""
    recent_groups: _Count = 500
    """Judged groups that the dashboard and `/v1/groups` show."""
    recent_bytes: _Count = 64 * 2**20
    golden: Path | None = None
    """File of groups that are judged again and again, to notice when a judge changes."""
    golden_minutes: _Seconds | None = None
    """Judge them every so many minutes."""
    golden_groups: _Count | None = None
    """Judge them whenever so many groups have been judged."""
    stop_seconds: _Seconds = 30.0
    """How long a stop waits for groups that are being judged."""

    in_environment: ClassVar[tuple[str, ...]]

    @model_validator(mode="after")
    def _agrees(self, info: ValidationInfo) -> ServiceSettings:
        # A file by itself may lack what flags give.
        if fault := None if info.context == PART else self._fault():
            raise PydanticCustomError("settings", "{fault}", {"fault": fault})
        return self

    def _fault(self) -> str | None:
        """What of these settings does not go together."""
        for name, named in (("judges", self.judges), ("rubrics", self.rubrics)):
            if DEFAULT in named:
                return f"{name}.{DEFAULT}: this name is the one of `{name[:-1]}` at the top"
        if self.max_buffered_bytes < 2 * self.max_body_bytes:
            return f"max_buffered_bytes: expected at least twice max_body_bytes, got {self.max_buffered_bytes}"
        if self.keys and self.no_auth:
            return "no_auth: there are keys; take them away, or leave it false"
        for name in self.operators:
            if name not in self.keys:
                return f"operators: there is no key called {name!r}"
        every = self.golden_minutes is not None or self.golden_groups is not None
        if (self.golden is None) == every:
            return "golden: give it together with golden_minutes, golden_groups, or both"
        if self.golden is not None and self.cache_mode == "readonly":
            return "golden: in the cache mode readonly nothing is asked, and these groups are to be asked again"
        return None

    def scoring(self, name: str) -> ScoringSettings:
        """How the judge of this name is used."""
        own = self.judges[name].model_dump(exclude_unset=True) if name != DEFAULT else {}
        return ScoringSettings(
            **{field: own.get(field, getattr(self, field)) for field in ScoringSettings.model_fields}
        )


ServiceSettings.in_environment = tuple(
    name for name in ServiceSettings.model_fields if name not in ("judges", "rubrics", "keys")
)


def read_service_settings(path: Path | None = None, **given: object) -> ServiceSettings:
    """The settings of a TOML file, over them those of the environment, over them those given here.

    In the environment a setting is called RULER_ and its name in capitals, RULER_PORT for example; the tables `judges`,
    `rubrics` and `keys` stand in the file, or come from flags.

    Args:
        path: None: the file that RULER_SETTINGS names, if any.
        given: by the names of `ServiceSettings`; None and an empty list leave a setting as it is.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value wrong; names all three.
    """
    return read_settings_of(ServiceSettings, path, given)
