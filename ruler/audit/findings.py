"""What the figures of an audit mean, in one sentence each; the thresholds and their reasons stand in docs/audit.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ruler.audit.positions import Positions, SizePositions
from ruler.audit.repeats import Repeats, Swaps
from ruler.audit.run import Audit, Signal
from ruler.audit.text_findings import attacks_finding, cuts_finding, style_finding
from ruler.audit.wording import MIN_GROUPS, WIDE, Level, Said, percent
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


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence."""

    subject: Literal["signal", "position", "orders", "repeats", "style", "attacks", "cuts"]
    level: Level
    text: str


def findings(audit: Audit) -> tuple[Finding, ...]:
    """One finding a subject; attacks only where they were asked for."""
    found = [
        Finding("signal", *_signal(audit.signal, audit.failures[0].reason if audit.failures else "")),
        Finding("position", *_position(audit.positions, audit.swaps)),
        Finding("orders", *_orders(audit.swaps, audit.accuracy)),
        Finding("repeats", *_repeats(audit.repeats)),
        Finding("style", *style_finding(audit.style)),
    ]
    if audit.attacks is not None:
        found.append(Finding("attacks", *attacks_finding(audit.attacks)))
    return (*found, Finding("cuts", *cuts_finding(audit.cuts, audit.signal.scored > 0)))


def _signal(signal: Signal, first_reason: str) -> Said:
    groups = signal.scored + signal.tied + signal.failed
    if not signal.scored:
        return "unclear", (
            f"none of the {groups} groups has scores ({signal.failed} failed, {signal.tied} read the same): "
            "there is nothing to audit"
        )
    said: list[str] = []
    if signal.failed > FEW_FAILURES * groups:
        said.append(
            f"{percent(signal.failed_share)} of the groups failed (the first: {first_reason}): a run would train "
            "on less and pay for all, so mend that first"
        )
    if (signal.no_signal.value or 0) >= MANY_EQUAL:
        said.append(
            f"{percent(signal.no_signal)} of the scored groups have all scores equal, are paid for and teach "
            "nothing: ask for finer differences in the rubric, or leave out tasks that always or never work"
        )
    if said:
        return "act", "; ".join(said)
    if signal.no_signal.value:
        return "good", f"only {percent(signal.no_signal)} of the scored groups have all scores equal: the others teach"
    return "good", "the scores differ in every scored group, so each of them teaches something"


def _position(positions: Positions, swaps: Swaps) -> Said:
    if swaps.change.moved.value == 0:
        return "good", "every score is the same in another order: position makes no difference"
    told = [
        size
        for place, size in enumerate(positions.sizes)
        if all(slot.interval for slot in size.slots) and (place == 0 or size.slots[0].clusters >= MIN_GROUPS_OTHER_SIZE)
    ]
    if not told:
        return "unclear", "too few groups to tell position from quality: audit more"
    for size in told:
        moved = [slot for slot in size.slots if slot.interval and not slot.interval[0] <= 0 <= slot.interval[1]]
        if moved:
            return _moved(size, max(moved, key=lambda slot: abs(slot.value or 0)))
    most = told[0]
    bound = max(abs(end) for slot in most.slots for end in slot.interval or ())
    if bound > WIDE:
        return "unclear", (
            f"no effect of position shows, but one of up to ±{bound:.2f} may hide in {most.prompts} prompts: "
            "audit more groups"
        )
    return "good", f"position makes no difference that shows (at most ±{bound:.2f}): nothing to do"


def _moved(size: SizePositions, slot: Estimate) -> Said:
    value, (low, high) = slot.value or 0.0, slot.interval or (0.0, 0.0)
    share = size.share or 0.0
    verb = "gains" if value > 0 else "loses"
    ends = sorted((abs(low), abs(high)))
    effect = (
        f"slot {1 + size.slots.index(slot)} of {size.size} {verb} {abs(value):.3f} ({ends[0]:.3f} to {ends[1]:.3f}), "
        f"and slots explain {share:.1%} of the spread of scores"
    )
    if share < SMALL_SHARE:
        return "good", f"{effect}: too little to pay for"
    if size.size == 2 or share < LARGE_SHARE:
        return "act", f"{effect}: use --orders 2 or more"
    return "act", f"{effect}: use --orders 4 (2 leave a quarter of a bias that falls along the list)"


def _orders(swaps: Swaps, accuracy: float | None) -> Said:
    rho, flipped = swaps.rho, swaps.change.flipped
    if rho is None:
        return "unclear", "no group has scores that differ in two orders: there is nothing to compare"
    beginning = f"two orders agree with rho {rho:.2f} and flip {percent(flipped)} of the pairs"
    if flipped.clusters < MIN_GROUPS:
        return "unclear", f"{beginning}, but {flipped.clusters} tasks are too few to plan by: audit more groups"
    if rho >= HIGH_RHO:
        if accuracy is not None and accuracy < LOW_ACCURACY:
            return "act", (
                f"{beginning}, but accuracy is {accuracy:.2f}: more orders would repeat the same mistakes, so try "
                "another judge or rubric"
            )
        return "good", f"{beginning}: more orders would bring little"
    if rho < LOW_RHO:
        return "act", (
            f"{beginning}: even four orders would be mostly noise (reliability {swaps.planned[-1].reliability:.2f}), "
            "so try another judge or a clearer rubric"
        )
    one, two, four = (plan.reliability for plan in swaps.planned)
    return "act", (
        f"{beginning}: buy orders (--orders 2 raises reliability from {one:.2f} to {two:.2f}, --orders 4 to {four:.2f})"
    )


def _repeats(repeats: Repeats) -> Said:
    again, other = repeats.change.moved, repeats.other_order.moved
    if not repeats.groups:
        return "unclear", "nothing could be asked twice"
    if repeats.deterministic:
        return "good", (
            "asked again it says just the same: whatever moves between orders is due to the order, and asking one "
            "order twice would buy nothing"
        )
    figures = f"asked again a score moves by {again.value or 0:.3f}, in another order by {other.value or 0:.3f}"
    interval = repeats.excess.interval
    if interval is None:
        return "unclear", f"{figures}: too few groups to tell noise from position"
    if interval[0] > 0:
        return "good", f"{figures}: order matters beyond noise, and further orders average both"
    noisy = (repeats.change.flipped.value or 0) >= MANY_FLIPS
    if noisy:
        return "act", (
            f"{figures}: it is noise, not position, and flips {percent(repeats.change.flipped)} of the pairs; further "
            "orders average it, a lower temperature may reduce it"
        )
    return "good", f"{figures}: what moves is noise, not position, and little of it"
