"""What policies are trained with, side by side: truth, rules, judges, judges of known noise, and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ruler.errors import ConfigError
from trainer.tasks.bundled import TaskName

Kind: TypeAlias = Literal[
    "truth", "rules", "judge", "judge and rules", "flipped truth", "random", "shorter", "format", "naive order"
]
Section: TypeAlias = Literal["rewards", "noise", "controls", "slot bias"]

TRUTH = "truth"
"""The arm that all others are compared with."""
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Standard deviations of the simulated judges' noise; truth is 0 or 1."""
FLIPS = (0.1, 0.2)
SLOT_BIAS = 0.5
"""Standard deviation over the slots of what the biased judge adds for the place alone, in units of truth."""
POINTS = 4.0
"""Points of 100 that a simulated judge gives for truth: even of the noisiest judge, less than 1 % of the scores is cut
off at 0 or 100. Their rewards are multiplied by 100 / POINTS again."""
DEFAULT_JUDGES: dict[TaskName, tuple[str, ...]] = {"arithmetic": ("embedded",), "inbox": ()}
"""The embedded judge knows no other task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One reward that policies are trained with."""

    name: str
    says: str
    """What is rewarded, as a sentence for readers."""
    section: Section
    """Where a report shows it."""
    kind: Kind
    judge: str | None = None
    """SPEC of the judge, of arms that ask one."""
    orders: Literal[1, 2] = 1
    """In how many orders the judge reads each group."""
    noise: float | None = None
    """Of a simulated judge: standard deviation, in units of truth."""
    judge_weight: float = 1.0
    """What a score of 1 is worth as a reward."""
    flip: float = 0.0
    """Probability, per rollout, that its truth is turned round."""


def arms_of(task: TaskName, judges: Sequence[str]) -> tuple[Arm, ...]:
    """All arms of a task, in the order in which they are shown, truth first.

    Args:
        task: a bundled one.
        judges: SPECs; each is asked in one order and in two, and with the rules.

    Raises:
        ConfigError: a judge is named twice, or as another arm is.
    """
    arms = (
        Arm(name=TRUTH, says="The truth that the task knows: 1 for a right answer.", section="rewards", kind="truth"),
        Arm(name="rules", says="The task's handwritten rules.", section="rewards", kind="rules"),
        *(arm for spec in judges for arm in _judged(spec)),
        *(_noisy(noise) for noise in NOISES),
        *(_flipped(share) for share in FLIPS),
        Arm(
            name="random",
            says="A coin for each rollout, whatever it says.",
            section="controls",
            kind="random",
        ),
        Arm(name="shorter", says="Fewer tokens, and nothing else.", section="controls", kind="shorter"),
        Arm(name="format", says="The form that the task asks for, alone.", section="controls", kind="format"),
        _biased("slot bias, seeded orders", "in an order drawn from the rollouts' contents, as Ruler does", "judge"),
        _biased("slot bias, order of arrival", "in the order in which they are done, shortest first", "naive order"),
    )
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"judge: {name!r}: two arms would have this name")
    return arms


def chosen(arms: Sequence[Arm], names: Sequence[str] | None) -> tuple[Arm, ...]:
    """The arms of these names, in the order of `arms`; None: all. Truth is always among them.

    Raises:
        ConfigError: a name that no arm has.
    """
    if names is None:
        return tuple(arms)
    known = [arm.name for arm in arms]
    for name in names:
        if name not in known:
            raise ConfigError(f"arms: no arm is called {name!r}; there are {', '.join(map(repr, known))}")
    return tuple(arm for arm in arms if arm.name in names or arm.name == TRUTH)


def _judged(spec: str) -> tuple[Arm, ...]:
    return (
        Arm(name=f"{spec}", says=f"The judge {spec}, one order.", section="rewards", kind="judge", judge=spec),
        Arm(
            name=f"{spec}, two orders",
            says=f"The judge {spec}, each group read in two orders.",
            section="rewards",
            kind="judge",
            judge=spec,
            orders=2,
        ),
        Arm(
            name=f"{spec} and rules",
            says=f"The judge {spec}, one order, and the rules, added up.",
            section="rewards",
            kind="judge and rules",
            judge=spec,
        ),
    )


def _noisy(noise: float) -> Arm:
    return Arm(
        name=f"noise {noise:g}",
        says=f"A simulated judge: truth, and noise with a standard deviation of {noise:g}.",
        section="noise",
        kind="judge",
        judge=_simulated(f"noise={noise:g}"),
        noise=noise,
        judge_weight=100 / POINTS,
    )


def _flipped(share: float) -> Arm:
    return Arm(
        name=f"truth, {share:.0%} flipped".replace("%", " %"),
        says=f"Truth, turned round for {100 * share:g} % of the rollouts.",
        section="noise",
        kind="flipped truth",
        flip=share,
    )


def _biased(name: str, shown: str, kind: Kind) -> Arm:
    return Arm(
        name=name,
        says=f"A simulated judge that knows truth and favours early slots; it is shown the rollouts {shown}.",
        section="slot bias",
        kind=kind,
        judge=_simulated(f"slot_bias={SLOT_BIAS:g}"),
        judge_weight=100 / POINTS,
    )


def _simulated(error: str) -> str:
    return f"simulated?quality=truth&{error}&scale={POINTS:g}&offset={50 - POINTS / 2:g}"
