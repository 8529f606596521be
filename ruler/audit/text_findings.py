"""What the figures say of style and of cut tool outputs. Thresholds are explained in docs/audit.md."""

from __future__ import annotations

from ruler.audit.cuts import CutEffects
from ruler.audit.style import Style, Trait
from ruler.audit.wording import CAP, MIN_GROUPS, Said, above, audit_more, counted, more_tasks, too_few
from ruler.intervals import Estimate
from ruler.packing.cut import MIN_RESULT_CHARS

CORRELATED = 0.1
WIDE_CORRELATION = 0.3
CUT_MOVES = 0.02
LOSS = 0.1


def style_finding(style: Style) -> Said:
    said: list[str] = []
    for name, trait, words in (
        ("length", style.length, ("longer", "shorter")),
        ("markdown", style.markdown, ("more marked-up", "plainer")),
    ):
        said += _trait(name, trait, words)
    if said:
        return "do", "; ".join(said)
    # Few groups differ in markup: where hardly any does, length alone is spoken of.
    known = [trait for trait in (style.length, style.markdown) if trait.judge.clusters >= MIN_GROUPS]
    if not known:
        return "unclear", "too few groups to tell what length and markup do"
    hidden = [_told_by(trait) for trait in known if _may_hide(trait)]
    if hidden:
        return (
            "unclear",
            "no taste for length or markup shows, but one of the size that matters may hide: "
            + audit_more(more_tasks(WIDE_CORRELATION, *hidden)),
        )
    if style.length.excess.interval:
        return "fine", "length and markup earn no more than truth gives them"
    return "fine", "no strong taste for length or markup shows; only truth could tell whether a weak one is right"


def _told_by(trait: Trait) -> Estimate:
    return trait.excess if trait.excess.interval else trait.judge


def _may_hide(trait: Trait) -> bool:
    """Whether the interval is wide; where judge and truth differ in no group it only tells of their number."""
    estimate = _told_by(trait)
    low, high = estimate.interval or (-1.0, 1.0)
    return high - low > 2 * WIDE_CORRELATION and not (estimate is trait.excess and estimate.value == 0)


def _trait(name: str, trait: Trait, words: tuple[str, str]) -> list[str]:
    if trait.excess.interval and trait.excess.value is not None:
        low, high = trait.excess.interval
        if low <= 0 <= high or abs(trait.excess.value) < CORRELATED:
            return []
        more = words[0] if trait.excess.value > 0 else words[1]
        return [
            f"{more} rollouts earn more than truth gives them (correlation with {name} apart by "
            f"{trait.excess.value:+.2f}, {low:+.2f} to {high:+.2f}), and a policy will learn it: name it in the "
            "rubric, or reward against it"
        ]
    interval = trait.judge.interval
    if interval is None or trait.judge.value is None or min(abs(interval[0]), abs(interval[1])) < WIDE_CORRELATION:
        return []
    if interval[0] <= 0 <= interval[1]:
        return []
    more = words[0] if trait.judge.value > 0 else words[1]
    return [
        f"{more} rollouts earn more (correlation with {name} {trait.judge.value:+.2f}): without truth nobody can say "
        "whether rightly, so read some groups, or label a few"
    ]


def cuts_finding(cuts: CutEffects, stopped: int) -> Said:
    if not cuts.groups:
        if not cuts.long_outputs:
            return (
                "fine",
                f"no group holds a tool output of more than {MIN_RESULT_CHARS:,} characters: there is nothing to cut",
            )
        hold = "holds" if cuts.long_outputs == 1 else "hold"
        long = f"{counted(cuts.long_outputs, 'group')} {hold} tool outputs of more than {MIN_RESULT_CHARS:,} characters"
        if stopped:
            return "unclear", f"{long}, but {CAP} stopped it before any was asked with them cut"
        return "unclear", f"{long}, but none has whole scores to compare: they failed, or are judged in blocks or cut"
    moved, again = cuts.change.moved, cuts.again.moved
    if moved.value is None:
        return "unclear", f"none of the {counted(cuts.groups, 'group')} with long tool outputs has scores after the cut"
    figures = f"with tool outputs cut to {MIN_RESULT_CHARS:,} characters a score moves by {moved.value:.3f}"
    figures += "" if again.value is None else f", asked again by {again.value:.3f}"
    whole, short = cuts.accuracy_whole.value, cuts.accuracy_cut.value
    rates = "" if whole is None or short is None else f" (accuracy {whole:.2f} before, {short:.2f} after)"
    if moved.clusters < MIN_GROUPS:
        few = too_few(moved.clusters, "task", " with long tool outputs")
        return "unclear", f"{figures}{rates}, but {few} to tell"
    if moved.value == 0:
        return "fine", f"tool outputs cut to {MIN_RESULT_CHARS:,} characters change no score at all"
    if cuts.excess.interval is None:
        return "unclear", f"{figures}{rates}: too few groups to tell the cut from chance"
    if above(cuts.loss):
        return (
            "do",
            f"{figures}, and accuracy falls from {whole:.2f} to {short:.2f}: take a judge with a larger window",
        )
    if rates and cuts.loss.interval and cuts.loss.interval[1] > LOSS:
        more = audit_more(more_tasks(LOSS, cuts.loss))
        return "unclear", f"{figures}{rates}: a loss of up to {cuts.loss.interval[1]:.2f} may hide, so {more}"
    if not above(cuts.excess):
        return "fine", f"{figures}{rates}: no more than asking again"
    if rates:
        return "fine", f"{figures}{rates}: scores move, but no loss of accuracy shows"
    if (cuts.excess.value or 0) < CUT_MOVES:
        return "fine", f"{figures}: too little to matter"
    return "do", f"{figures}: what is cut matters to the judge, so take one whose window holds whole groups"
