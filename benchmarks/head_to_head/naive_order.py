"""A judge that is shown the rollouts of a group in the order in which they are done, as who adds nothing would do it.

Short rollouts are done first, so what the judge gives to early slots it gives to short rollouts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ruler.config import load_judges, read_settings
from ruler.packing import pack
from ruler.reply import read_reply, reply_schema
from ruler.rewards import Rewards
from ruler.scoring import Ruler
from ruler.truth_lookup import TruthLookup
from ruler.types import Group, Judge, JudgeRequest, Score, ScoredGroup, Usage
from trainer.rewards import RewardFunction, by_judge
from trainer.tasks import Task


@asynccontextmanager
async def judged_in_order_of_arrival(
    spec: str, task: Task, rewards: Rewards
) -> AsyncIterator[tuple[RewardFunction, Ruler]]:
    """Rewards by this simulated judge, which goes by truth; otherwise as `trainer.judged` has it.

    Args:
        spec: with `quality=truth`.
        task: whose rubric.
        rewards: how scores make a reward.
    """
    truth = TruthLookup()
    loaded = load_judges(read_settings(judge=spec, cache="off"), truth=truth)
    try:
        # It asks nothing: truth is looked up by the texts that it would show.
        ruler = truth.ruler = Ruler(loaded.judges, rubric=task.rubric)
        (judge,) = loaded.judges
        yield by_judge(ArrivalOrder(judge, ruler).score_many, rewards, truth=truth), ruler
    finally:
        await loaded.close()


class ArrivalOrder:
    """Asks a judge once for each group, the shortest rollouts first; equal ones are shown once, as ever.

    Args:
        judge: who is asked.
        ruler: of the same judge; whose name, rubric and layout the results carry.
    """

    def __init__(self, judge: Judge, ruler: Ruler) -> None:
        self._judge, self._ruler = judge, ruler

    async def score_many(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """One result per group, in order.

        Raises:
            JudgeError: the judge fails, which a simulated one does only when it is told to.
        """
        return list(await asyncio.gather(*map(self._score, groups)))

    async def _score(self, group: Group) -> ScoredGroup:
        packed = pack(group, self._ruler.rubric)
        places = range(len(packed.rollouts))
        found: dict[str, float] = {}
        usage = Usage()
        if len(places) > 1:
            seeded = packed.prompt(tuple(places))
            lengths = [len(seeded.texts[label]) for label in seeded.labels]
            prompt = packed.prompt(tuple(sorted(places, key=lambda place: lengths[place])))
            reply = await self._judge(JudgeRequest(prompt.messages, reply_schema(notes=True), prompt.labels))
            usage = reply.usage
            for label, points in read_reply(reply.text, prompt.labels).scores.items():
                found |= dict.fromkeys(prompt.rollouts[label], points / 100)
        return ScoredGroup(
            group_id=group.id,
            group_digest=group.digest,
            rollouts_digest=group.rollouts_digest,
            status="scored" if found else "tied",
            rollouts=tuple(Score(rollout.id, found.get(rollout.id)) for rollout in group.rollouts),
            usage=usage,
            judge=self._ruler.judge_name,
            model=None,
            rubric=self._ruler.rubric.id,
            prompt_version=self._ruler.prompt_version,
            orders=1,
            adaptive=False,
            orders_used=1 if found else 0,
        )
