"""The whole way on real groups: every one is scored, each rollout finds its score, and no truth is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from judges.scripted import ScriptedJudge, scores_reply
from ruler import JudgeRequest, Ruler
from ruler.records import LabelledGroup, read_labelled
from ruler.types import FENCE

FILES = (
    "gsm8k.jsonl.gz human-pairs.jsonl.gz intercode-bash.jsonl.gz llmbar.jsonl math-same-policy.jsonl mint.jsonl.gz "
    "pandalm.jsonl tau2.jsonl.gz taubench-airline.jsonl.gz"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES.split())
async def test_every_group_is_scored_and_every_rollout_finds_its_own_score(name: str, data_folder: Path) -> None:
    def reply(request: JudgeRequest) -> str:
        """Scores by what stands between the fences, last rollout first."""
        text = request.messages[1]["content"]
        fences = list(FENCE.finditer(text))
        lengths = {a["id"]: b.start() - a.end() for a, b in zip(fences[::2], fences[1::2], strict=True)}
        return scores_reply({label: length % 101 for label, length in reversed(lengths.items())})

    ruler = Ruler(ScriptedJudge(reply))
    labelled = [found for found in read_labelled(str(data_folder / name)) if isinstance(found, LabelledGroup)]
    results = await ruler.score_many(item.group for item in labelled)
    assert {result.status for result in results} == {"scored"}
    for item, result in zip(labelled, results, strict=True):
        (prompt,) = ruler.pack(item.group)
        scores = {score.id: score.score for score in result.rollouts}
        assert list(scores) == [rollout.id for rollout in item.group.rollouts]
        for label, text in prompt.texts.items():
            for rollout_id in prompt.rollouts[label]:
                assert scores[rollout_id] == (len(text) + 2) % 101 / 100
