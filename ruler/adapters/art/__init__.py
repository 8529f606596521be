"""OpenPipe ART: a judge for `gather_trajectory_groups`, and ART's own RULER functions with this judge behind them.

    groups = await art.gather_trajectory_groups(groups, after_each=GroupJudge(Ruler("openai/gpt-5-mini")))

Written for openpipe-art 0.5.18. `groups` reads ART's objects and writes into copies of them, `judge` asks about them,
`drop_in` has ART's names and signatures, and `spec` makes a SPEC of what ART gives to LiteLLM.
"""

from ruler.adapters.art.drop_in import ruler, ruler_score_group
from ruler.adapters.art.judge import GroupJudge

__all__ = ["GroupJudge", "ruler", "ruler_score_group"]
