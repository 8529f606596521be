"""The names and signatures that users write down. A change here is a change for them: say so in CHANGELOG.md."""

from __future__ import annotations

import dataclasses
import inspect

import ruler
from ruler.types import Juror


def test_the_public_names() -> None:
    assert sorted(ruler.__all__) == sorted(
        [
            "DEFAULT_RUBRIC",
            "BudgetExceeded",
            "Client",
            "ConfigError",
            "FailedGroup",
            "FailedOrder",
            "Group",
            "GroupError",
            "JoinedScore",
            "Judge",
            "JudgeCall",
            "JudgeError",
            "JudgeInfo",
            "JudgeRejected",
            "JudgeReply",
            "JudgeRequest",
            "JudgeUnavailable",
            "JudgedOrder",
            "Juror",
            "PackedPrompt",
            "PackingError",
            "ReplyError",
            "Rollout",
            "Rubric",
            "Ruler",
            "RulerError",
            "Sampling",
            "Score",
            "ScoredGroup",
            "Usage",
        ]
    )
    for name in ruler.__all__:
        assert hasattr(ruler, name)


def test_the_signatures() -> None:
    def parameters(function: object) -> str:
        return ", ".join(inspect.signature(function).parameters)  # type: ignore[arg-type]

    assert parameters(ruler.Ruler) == (
        "judge, rubric, orders, adaptive, min_orders, max_block, context_tokens, notes, reasoning, reference, "
        "shared_text, absolute, policy, concurrency, on_call"
    )
    assert parameters(ruler.Ruler.score) == "self, group"
    assert parameters(ruler.Ruler.score_many) == "self, groups, progress"
    assert parameters(ruler.Ruler.score_stream) == "self, groups"
    assert parameters(ruler.Ruler.score_sync) == "self, group"
    assert parameters(ruler.Ruler.pack) == "self, group"
    assert parameters(ruler.Group.of) == "rollouts, task, id, ids, tools, reference, metadata"
    assert parameters(ruler.Rollout.of) == "id, messages, tools, finish_reason, histories, metadata"
    assert parameters(ruler.Rubric.load) == "path"


def test_the_fields() -> None:
    def fields(kind: type) -> str:
        return " ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]

    assert fields(ruler.JudgeRequest) == "messages schema ids sampling repeat prefix_chars check"
    assert fields(ruler.JudgeReply) == (
        "text model usage latency_seconds finish_reason from_cache judge distributions paid paid_seconds"
    )
    assert fields(ruler.JudgeInfo) == (
        "backend model base_url sampling context_tokens count_tokens images prefix_cache "
        "cacheable input_price output_price"
    )
    assert fields(ruler.Score) == "id score stderr note same_as cut_chars flags"
    assert fields(ruler.Usage) == (
        "calls input_tokens cached_input_tokens output_tokens cost_usd cache_hits retries wait_seconds"
    )
    assert fields(ruler.JudgeCall) == "group_id judge order block request shown reply error"
    assert fields(ruler.ScoredGroup) == (
        "group_id group_digest rollouts_digest status rollouts usage judge model rubric prompt_version orders "
        "adaptive orders_used agreement judged failed_orders clipped absolute answered_by jury"
    )
    assert fields(ruler.JudgedOrder) == "judge order block rollout_ids scores"
    assert fields(ruler.FailedOrder) == "judge order reason message"
    assert fields(Juror) == "judge model scores notes usage answered_by stderr"


def test_what_goes_through_is_frozen() -> None:
    for kind in (
        ruler.Rollout,
        ruler.Group,
        ruler.JudgeRequest,
        ruler.JudgeReply,
        ruler.ScoredGroup,
        ruler.Score,
        Juror,
    ):
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
