"""Several judges for one group: who sits on the jury, and what becomes of their scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ruler.aggregate import DIGITS, NoisePool, SlotMeans, agreement, merge
from ruler.errors import ConfigError
from ruler.types import FailedGroup, Judge, JudgedOrder, Juror, ScoredGroup, judge_info


def read_judges(judge: Judge | str | Sequence[Judge | str]) -> tuple[Judge, ...]:
    """The judges that were given, in their order: one judge or SPEC, or a sequence of them.

    Raises:
        ConfigError: none, something that is no judge, a bad SPEC, or two judges of one name.
    """
    if isinstance(judge, Sequence) and not isinstance(judge, str) and not callable(judge):
        given = {f"judge[{place}]": item for place, item in enumerate(judge)}
    else:
        given = {"judge": judge}
    if not given:
        raise ConfigError("judge: an empty jury; give at least one judge")
    for field, item in given.items():
        if not isinstance(item, str) and not callable(item):
            raise ConfigError(f"{field}: expected an async callable or a SPEC, got {item!r:.80}")
    loaded = iter(_load([item for item in given.values() if isinstance(item, str)]))
    judges = tuple(next(loaded) if isinstance(item, str) else item for item in given.values())
    names = Counter(judge_info(one).name for one in judges)
    name, seats = names.most_common(1)[0]
    if seats > 1:
        raise ConfigError(
            f"judge: {name!r} sits on the jury {seats} times: the same question would be asked again, and its "
            "opinion counted again; different judges need different names (`info`)"
        )
    return judges


def _load(specs: Sequence[str]) -> Sequence[Judge]:
    if not specs:
        return ()
    from ruler import config  # the core knows no judges; only the SPEC form needs them

    if len(specs) == 1:
        return (config.load_judge(specs[0]),)
    if not all(spec.strip() for spec in specs):
        raise ConfigError(f"judge: an empty SPEC in a jury: {specs!r:.200}")
    # Together, so that they share one cache and one budget.
    return config.load_judges(config.read_settings(judge=list(specs))).judges


def mean_scores(jurors: Sequence[Juror]) -> tuple[float, ...]:
    """One score per rollout: the plain mean of the judges' scores. In [0, 1]; of one judge its scores, untouched.

    Judges differ in severity, so what has to be averaged is each judge's scores less its own mean within the group,
    to which the mean of those means is added back. Every judge scores every rollout of a group, and then this is the
    plain mean: a judge's severity adds the same to all rollouts. A judge that spreads its scores wider does weigh more.

    The judges' order changes nothing.
    """
    if len(jurors) == 1:
        return jurors[0].scores
    # The sum is exact before it is rounded, and rounding makes means equal that only arithmetic keeps apart:
    # 0.01 with 0.06 and 0.03 with 0.04 are a tie, and no difference for a trainer to scale up.
    columns = zip(*(juror.scores for juror in jurors), strict=True)
    return tuple(round(math.fsum(column) / len(jurors), DIGITS) for column in columns)


def joint_stderr(jurors: Sequence[Juror]) -> tuple[float, ...] | None:
    """The standard error of each mean score, as of judges that err independently; None when one has none."""
    columns = [juror.stderr for juror in jurors if juror.stderr is not None]
    if not jurors or len(columns) < len(jurors):
        return None
    return tuple(math.hypot(*column) / len(jurors) for column in zip(*columns, strict=True))


def mean_agreement(judged: Sequence[Sequence[JudgedOrder]]) -> float | None:
    """How far the first two orders of each judge agree, in the mean; None when a judge was shown one."""
    known = [value for value in map(agreement, judged) if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(judged) else None


def with_stderr(results: Sequence[ScoredGroup | FailedGroup], slots: SlotMeans) -> list[ScoredGroup | FailedGroup]:
    """The results with the standard errors that these slot means give; nothing else of them changes."""
    noise = NoisePool()
    for result in results:
        if isinstance(result, ScoredGroup) and result.adaptive:
            for orders in _by_judge(result).values():
                noise.add(orders, slots)
    return [
        _settled(result, slots, noise if result.adaptive else None)
        if isinstance(result, ScoredGroup) and result.judged
        else result
        for result in results
    ]


def _settled(result: ScoredGroup, slots: SlotMeans, noise: NoisePool | None) -> ScoredGroup:
    ids = [score.same_as or score.id for score in result.rollouts]
    columns = {}
    for judge, orders in _by_judge(result).items():
        stderr = merge(orders, slots, noise=noise).stderr
        columns[judge] = None if stderr is None else tuple(stderr[name] for name in ids)
    jury = tuple(replace(juror, stderr=columns[juror.judge]) for juror in result.jury)
    joint = joint_stderr(jury) if jury else next(iter(columns.values()))
    rollouts = zip(result.rollouts, joint or [None] * len(ids), strict=True)
    return replace(result, jury=jury, rollouts=tuple(replace(score, stderr=error) for score, error in rollouts))


def _by_judge(result: ScoredGroup) -> dict[str, list[JudgedOrder]]:
    by_judge: dict[str, list[JudgedOrder]] = {}
    for judged in result.judged:
        by_judge.setdefault(judged.judge, []).append(judged)
    return by_judge
