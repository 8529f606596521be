"""What the figures of an audit mean, in one sentence each; the thresholds and their reasons stand in docs/audit.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ruler.audit.attack_findings import attacks_finding
from ruler.audit.positions import Positions, SizePositions
from ruler.audit.repeats import Repeats, Swaps
from ruler.audit.run import Audit, Signal, is_stopped
from ruler.audit.text_findings import cuts_finding, style_finding
from ruler.audit.wording import (
    CAP,
    MIN_GROUPS,
    WIDE,
    Level,
    Said,
    audit_more,
    counted,
    more_tasks,
    percent,
    too_few,
)
from ruler.intervals import Estimate

SMALL_SHARE = 0.01
LARGE_SHARE = 0.05
MIN_GROUPS_OTHER_SIZE = 20
HIGH_RHO = 0.8
LOW_RHO = 0.2
LOW_ACCURACY = 0.7
MANY_FLIPS = 0.2
FEW_FAILURES = 0.02
MANY_EQUAL = 0.1
ENOUGH_EQUAL = 40
"""Tasks of which one in ten is four: by then it is no mishap of one."""
Subject: TypeAlias = Literal["signal", "position", "orders", "noise", "style", "attacks", "cuts"]
_NO_SCORES: Said = ("unclear", "there are no scores to tell by")


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence."""

    subject: Subject
    level: Level
    text: str


def findings(audit: Audit) -> tuple[Finding, ...]:
    """One finding a subject; attacks only where they were asked for."""
    stopped = audit.stopped
    said: dict[Subject, Said] = {"signal": _signal(audit.signal, stopped.as_they_are, _first_reason(audit))}
    if audit.signal.scored:
        said |= {
            "position": _position(audit.positions, audit.swaps),
            "orders": _orders(audit.swaps, audit.accuracy),
            "noise": _noise(audit.noise, stopped.again),
            "style": style_finding(audit.style),
            "attacks": ("unclear", "") if audit.attacks is None else attacks_finding(audit.attacks, stopped.attacked),
            "cuts": cuts_finding(audit.cuts, stopped.cut),
        }
    subjects = [subject for subject in get_args(Subject) if subject != "attacks" or audit.attacks is not None]
    return tuple(Finding(subject, *said.get(subject, _NO_SCORES)) for subject in subjects)


def _first_reason(audit: Audit) -> str:
    return next((failure.reason for failure in audit.failures if not is_stopped(failure)), "")


def _signal(signal: Signal, stopped: int, first_reason: str) -> Said:
    asked = signal.scored + signal.tied + signal.failed
    groups = counted(asked + stopped, "group")
    failed = f"{signal.failed} failed" + (f", the first: {first_reason}" if signal.failed else "")
    if not signal.scored:
        if stopped:
            return "unclear", (f"{CAP} stopped it before any of the {groups} had scores ({failed}): raise the cap")
        outcome = f"none of the {groups} has scores ({failed}; {signal.tied} read the same)"
        if signal.failed:
            return "do", f"{outcome}: mend that first, there is nothing to audit yet"
        return "unclear", f"{outcome}: there is nothing to audit"
    said: list[str] = []
    if stopped:
        said.append(f"{CAP} stopped it after {asked} of {groups}, and only of those is anything known")
    level: Level = "unclear" if stopped else "fine"
    if signal.failed > FEW_FAILURES * asked:
        level = "do"
        said.append(
            f"{percent(signal.failed_share)} of the groups failed (the first: {first_reason}): a run would train "
            "on less and pay for all, so mend that first"
        )
    equal = _equal(signal.no_signal)
    if equal[0] == "do":
        level = "do"
    if said and equal[0] != "fine":
        said.append(equal[1])
    return (level, "; ".join(said)) if said else equal


def _equal(no_signal: Estimate) -> Said:
    groups = f"{percent(no_signal)} of the scored groups have all scores equal"
    if (no_signal.value or 0) >= MANY_EQUAL:
        sure = no_signal.interval is not None and no_signal.interval[0] >= MANY_EQUAL
        if not sure and no_signal.clusters < ENOUGH_EQUAL:
            few = too_few(no_signal.clusters, "task")
            return "unclear", f"{groups}, but {few} to tell it from less than {MANY_EQUAL:.0%}: audit more groups"
        return "do", (
            f"{groups}, are paid for and teach nothing: ask for finer differences in the rubric, or leave out tasks "
            "that always or never work"
        )
    if no_signal.clusters < MIN_GROUPS:
        return "unclear", f"the scores differ in every scored group, but {_few(no_signal, 'to say that of others')}"
    if no_signal.value:
        return "fine", f"only {groups}: the others teach"
    return "fine", "the scores differ in every scored group, so each of them teaches something"


def _position(positions: Positions, swaps: Swaps) -> Said:
    told = [
        size
        for place, size in enumerate(positions.sizes)
        if all(slot.interval for slot in size.slots) and (place == 0 or size.slots[0].clusters >= MIN_GROUPS_OTHER_SIZE)
    ]
    same = swaps.change.moved.value == 0
    for size in told:
        if size.sure:
            return _moved(size, max(size.sure, key=lambda slot: abs(slot.value or 0)), same=same)
    if same:
        return _same(told, swaps.change.moved)
    if not told:
        return "unclear", "too few groups to tell position from quality: audit more groups"
    most = told[0]
    bound = max(abs(end) for slot in most.slots for end in slot.interval or ())
    if bound > WIDE:
        return "unclear", (
            f"no effect of position shows, but one of up to ±{bound:.2f} may hide in "
            f"{counted(most.prompts, 'prompt')}: {audit_more(more_tasks(WIDE, *most.slots))}"
        )
    if most.slots[0].clusters < MIN_GROUPS:
        return "unclear", f"no effect of position shows, but {_few(most.slots[0], 'to be sure')}"
    return "fine", f"position makes no difference that shows (at most ±{bound:.2f}): nothing to do"


def _same(told: Sequence[SizePositions], moved: Estimate) -> Said:
    """Two orders, or four of a larger group, are all equal too where only slots that they exchange are told apart."""
    if moved.clusters < MIN_GROUPS:
        return "unclear", f"every score is the same in another order, but {_few(moved, 'to be sure')}"
    hidden = max(told, key=lambda size: size.share or 0.0, default=None)
    if hidden and (hidden.share or 0.0) >= LARGE_SHARE:
        return "unclear", (
            f"every score is the same in the orders that were asked, but slots explain {hidden.share:.1%} of the "
            "spread of scores: audit more groups, or in all orders (--orders full)"
        )
    return "fine", "every score is the same in another order: position makes no difference"


def _moved(size: SizePositions, slot: Estimate, *, same: bool) -> Said:
    value, (low, high) = slot.value or 0.0, slot.interval or (0.0, 0.0)
    share = size.share or 0.0
    verb = "gains" if value > 0 else "loses"
    ends = sorted((abs(low), abs(high)))
    effect = (
        f"slot {1 + size.slots.index(slot)} of {size.size} {verb} {abs(value):.3f} ({ends[0]:.3f} to {ends[1]:.3f}), "
        f"and slots explain {share:.1%} of the spread of scores"
    )
    if share < SMALL_SHARE and slot.clusters < MIN_GROUPS:
        return "unclear", f"{effect}, but {_few(slot, 'to be sure')}"
    if share < SMALL_SHARE:
        return "fine", f"{effect}: too little to pay for"
    if same:
        return "do", f"{effect}, though the orders that were asked agree: they do not take it away, use --orders full"
    if size.size == 2 or share < LARGE_SHARE:
        return "do", f"{effect}: use --orders 2 or more"
    return "do", f"{effect}: use --orders 4 (2 leave a quarter of a bias that falls along the list)"


def _orders(swaps: Swaps, accuracy: float | None) -> Said:
    rho, flipped = swaps.rho, swaps.change.flipped
    if rho is None:
        return "unclear", "no group has scores that differ in two orders: there is nothing to compare"
    beginning = f"two orders agree with rho {rho:.2f} and flip {percent(flipped)} of the pairs"
    if flipped.clusters < MIN_GROUPS:
        return "unclear", f"{beginning}, but {_few(flipped, 'to plan by')}"
    if rho >= HIGH_RHO:
        if accuracy is not None and accuracy < LOW_ACCURACY:
            return "do", (
                f"{beginning}, but accuracy is {accuracy:.2f}: more orders would repeat the same mistakes, so try "
                "another judge or rubric"
            )
        return "fine", f"{beginning}: more orders would bring little"
    if rho < LOW_RHO:
        return "do", (
            f"{beginning}: even four orders would be mostly noise (reliability {swaps.planned[-1].reliability:.2f}), "
            "so try another judge or a clearer rubric"
        )
    one, two, four = (plan.reliability for plan in swaps.planned)
    return "do", (
        f"{beginning}: buy orders (--orders 2 raises reliability from {one:.2f} to {two:.2f}, --orders 4 to {four:.2f})"
    )


def _few(estimate: Estimate, purpose: str) -> str:
    more = MIN_GROUPS - estimate.clusters
    return f"{too_few(estimate.clusters, 'task')} {purpose}: audit at least {more} more"


def _noise(repeats: Repeats, stopped: int) -> Said:
    again, other = repeats.change.moved, repeats.other_order.moved
    if not repeats.groups:
        if stopped:
            return "unclear", f"{CAP} stopped it before any group was asked again"
        return "unclear", f"no group has scores from being asked again ({repeats.failed} failed)"
    if again.clusters < MIN_GROUPS:
        return "unclear", f"asked again a score moves by {again.value or 0:.3f}, but {_few(again, 'to tell noise by')}"
    if repeats.deterministic:
        return "fine", (
            "asked again it says just the same: whatever moves between orders is due to the order, and asking one "
            "order twice would buy nothing"
        )
    figures = f"asked again a score moves by {again.value or 0:.3f}, in another order by {other.value or 0:.3f}"
    interval = repeats.excess.interval
    if interval is None:
        return "unclear", f"{figures}: too few groups to tell noise from position"
    if interval[0] > 0:
        return "fine", f"{figures}: order matters beyond noise, and further orders average both"
    noisy = (repeats.change.flipped.value or 0) >= MANY_FLIPS
    if noisy:
        return "do", (
            f"{figures}: it is noise, not position, and flips {percent(repeats.change.flipped)} of the pairs; further "
            "orders average it, a lower temperature may reduce it"
        )
    return "fine", f"{figures}: what moves is noise, not position, and little of it"
