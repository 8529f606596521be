"""`ruler serve`: the scoring service."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from ruler.cli.arguments import (
    CacheModeOption,
    CacheOption,
    ContextOption,
    FallbackOption,
    JudgeOption,
    MaxCostOption,
    MaxTokensOption,
    MinOrdersOption,
    PolicyOption,
    RubricOption,
    read_orders,
)
from ruler.cli.tables import say
from ruler.errors import ConfigError
from ruler.service import ServiceSettings, create_app
from ruler.service.settings import read_service_settings
from ruler.types import judge_info


def serve(
    settings: Annotated[
        Path | None, typer.Option("--settings", help="TOML file of settings, else RULER_SETTINGS; options win.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port; 0: any.  [default: 8000]")] = None,
    judge: JudgeOption = None,
    named_judge: Annotated[
        list[str] | None,
        typer.Option("--named-judge", help="NAME=SPEC: one more that requests may choose; repeatable."),
    ] = None,
    fallback: FallbackOption = None,
    policy: PolicyOption = None,
    rubric: RubricOption = None,
    named_rubric: Annotated[
        list[str] | None,
        typer.Option("--named-rubric", help="NAME=FILE: one more that requests may choose; repeatable."),
    ] = None,
    cache: CacheOption = None,
    cache_mode: CacheModeOption = None,
    max_cost_usd: MaxCostOption = None,
    max_total_tokens: MaxTokensOption = None,
    orders: Annotated[str | None, typer.Option("--orders", help="1, 2, 4 or full.  [default: 1]")] = None,
    adaptive: Annotated[
        bool | None, typer.Option("--adaptive", help="More than two only where these disagree.")
    ] = None,
    min_orders: MinOrdersOption = None,
    context_tokens: ContextOption = None,
    absolute: Annotated[bool | None, typer.Option("--absolute", help="Score groups of one, too.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="NAME=VARIABLE: a bearer key, in this environment variable; repeatable."),
    ] = None,
    no_auth: Annotated[bool | None, typer.Option("--no-auth", help="Let anybody who can reach it call.")] = None,
    no_content: Annotated[
        bool, typer.Option("--no-content", help="Keep no text of rollouts, notes and messages to look at.")
    ] = False,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Groups judged at once.  [default: 32]")
    ] = None,
    queue: Annotated[int | None, typer.Option("--queue", help="Requests that may wait.  [default: 256]")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", help="Groups taken in a minute; then 429.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option("--tokens-per-minute", help="Tokens of a minute's groups; then 429.")
    ] = None,
    collect_seconds: Annotated[
        float | None, typer.Option("--collect-seconds", help="Wait for a group's rollouts.  [default: 600]")
    ] = None,
    judge_seconds: Annotated[
        float | None, typer.Option("--judge-seconds", help="Wait for the judge.  [default: 300]")
    ] = None,
    short_groups: Annotated[
        str | None, typer.Option("--short-groups", help="Incomplete in time: score or fail.  [default: score]")
    ] = None,
    golden: Annotated[
        Path | None, typer.Option("--golden", help="Groups that are judged again and again, to notice a changed judge.")
    ] = None,
    golden_minutes: Annotated[float | None, typer.Option("--golden-minutes", help="… every so many minutes.")] = None,
    golden_groups: Annotated[int | None, typer.Option("--golden-groups", help="… every so many judged groups.")] = None,
) -> None:
    """Score over HTTP, for trainers: whole groups, or single rollouts that meet here. docs/service.md has it all.

    What has no option here stands in the settings file, or in the environment as RULER_ and its name in capitals.
    """
    chosen = read_service_settings(
        settings,
        host=host,
        port=port,
        judge=judge,
        judges=_pairs("--named-judge", named_judge, lambda spec: {"judge": spec}),
        fallback=fallback,
        policy=policy,
        rubric=rubric,
        rubrics=_pairs("--named-rubric", named_rubric, Path),
        cache=cache,
        cache_mode=cache_mode,
        max_cost_usd=max_cost_usd,
        max_total_tokens=max_total_tokens,
        orders=None if orders is None else read_orders(orders),
        adaptive=adaptive,
        min_orders=min_orders,
        context_tokens=context_tokens,
        absolute=absolute,
        keys=_pairs("--key", key, str),
        no_auth=no_auth,
        content=False if no_content else None,
        concurrency=concurrency,
        queue=queue,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        collect_seconds=collect_seconds,
        judge_seconds=judge_seconds,
        short_groups=short_groups,
        golden=golden,
        golden_minutes=golden_minutes,
        golden_groups=golden_groups,
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("ruler").setLevel(logging.INFO)
    app = create_app(chosen)
    from ruler.service.server import serve as run  # uvicorn, which comes with the extra

    run(app, chosen, ready=lambda address: _announce(address, chosen, app.state.service))


def _announce(address: str, settings: ServiceSettings, service: Any) -> None:
    reached = address.replace("//0.0.0.0:", "//localhost:").replace("//[::]:", "//localhost:")
    say(f"ruler serves {address}  (dashboard {reached}/, calls {reached}/docs)")
    for name, loaded in service.scorers.judges.items():
        members = " + ".join(judge_info(judge).name for judge in loaded.judges)
        say(f"  judge {name}: {members}, orders {settings.scoring(name).orders}")
    for name, rubric in service.scorers.rubrics.items():
        say(f"  rubric {name}: {rubric.id}")
    first = next(iter(service.scorers.judges.values()))
    say(f"  cache: {first.store.location if first.store else 'off'}")
    say(f"  keys: {', '.join(settings.keys) or 'none needed'}")


def _pairs(option: str, given: list[str] | None, read: Any) -> dict[str, Any] | None:
    """NAME=VALUE options as a table; None when there are none."""
    table: dict[str, Any] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise ConfigError(f"{option}: expected NAME=VALUE, got {text!r:.80}")
        if name in table:
            raise ConfigError(f"{option}: {name!r} is given twice")
        table[name] = read(value)
    return table or None
