"""An audit as people read it: for each subject its figures, then the sentence that says what to do. 80 columns do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ruler.audit import Audit, Finding
from ruler.audit.attacks import AttackEffects
from ruler.audit.cuts import CutEffects
from ruler.audit.repeats import Repeats, Swaps
from ruler.audit.style import Trait
from ruler.audit.wording import counted
from ruler.cli.tables import visible
from ruler.intervals import Estimate

_TITLES = {
    "signal": "Signal: do the scores of a group differ?",
    "position": "Position: does standing first help?",
    "orders": "Orders: does another order of the same group give the same answer?",
    "noise": "Noise: does the same order, asked again, give the same answer?",
    "style": "Style: do length and markup earn more than they should?",
    "attacks": "Attacks: does hostile text help the rollout that holds it?",
    "cuts": "Cuts: do scores change when long tool outputs are cut?",
}
_STYLES = {"fine": "green", "do": "bold red", "unclear": "yellow"}
_BAR_WIDTH = 12
_SEEN = 0.001
"""No bar is drawn for less than can be read off the number."""
_OTHER_SIZES = 5
_FEW = 5
"""Attacks of a family from which its interval is shown: of fewer it is as wide as can be."""
_INDENT = 2


def audit_text(audit: Audit, findings: Sequence[Finding]) -> RenderableType:
    """The whole audit, subject by subject, after a summary of what there is to do."""
    bodies = _bodies(audit)
    return Group(
        Text(_head(audit)),
        *(part for finding in findings for part in (Text(), *_section(finding, bodies[finding.subject]))),
        Text(),
        *_summary(findings),
    )


def _head(audit: Audit) -> str:
    lines = [
        f"judge {visible(audit.judge)}",
        f"{counted(audit.groups, 'group')}, in {audit.orders if audit.orders != 'full' else 'all'} orders each"
        + (f", {audit.left_out} of one rollout left out" if audit.left_out else ""),
    ]
    if audit.stopped.total:
        parts = {
            f"of {audit.groups} as they are": audit.stopped.as_they_are,
            "asked again": audit.stopped.again,
            "attacked": audit.stopped.attacked,
            "cut": audit.stopped.cut,
        }
        left = ", ".join(f"{number:,} {name}" for name, number in parts.items() if number)
        lines.insert(0, f"stopped by the cap on cost or tokens: groups left out: {left}; what follows is of the rest")
    if audit.accuracy is not None:
        interval = "" if audit.accuracy_interval is None else " ({:.3f} to {:.3f})".format(*audit.accuracy_interval)
        lines.append(
            f"accuracy on {counted(audit.accuracy_groups, 'scored group')} in which truth differs: "
            f"{audit.accuracy:.3f}{interval}"
        )
    elif audit.with_truth:
        lines.append(f"accuracy: unknown, truth differs in no scored group of the {audit.with_truth} that have it")
    else:
        lines.append("accuracy: unknown, no group has truth on every rollout")
    lines.append("scores are from 0 to 1; in brackets 95 % intervals over tasks")
    return "\n".join(lines)


def _section(finding: Finding, body: Iterable[RenderableType]) -> Iterable[RenderableType]:
    yield Text(_TITLES[finding.subject], style="bold")
    for part in body:
        yield Padding(part, (0, 0, 0, _INDENT))
    yield Padding(_sentence(finding), (0, 0, 0, _INDENT))


def _sentence(finding: Finding) -> Table:
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row(Text(f"{finding.level}:", style=_STYLES[finding.level]), Text(finding.text))
    return table


def _summary(findings: Sequence[Finding]) -> Iterable[RenderableType]:
    for level, words in (("do", "something to do"), ("unclear", "unclear"), ("fine", "fine")):
        named = [finding.subject for finding in findings if finding.level == level]
        if named:
            yield Text(f"{words}: {', '.join(named)}", style=_STYLES[level])


def _bodies(audit: Audit) -> dict[str, list[RenderableType]]:
    signal = audit.signal
    return {
        "signal": [
            _figures(
                [
                    (f"all scores equal, of {counted(signal.scored, 'scored group')}", signal.no_signal, "share"),
                    *([("all rollouts read the same, not asked", signal.tied_share, "share")] if signal.tied else []),
                    *([("failed", signal.failed_share, "share")] if signal.failed else []),
                ]
            )
        ],
        "position": _position(audit),
        "orders": _orders(audit.swaps),
        "noise": [_repeats(audit.noise)],
        "style": [_figures([*_trait("length", audit.style.length), *_trait("markdown", audit.style.markdown)])],
        "attacks": [] if audit.attacks is None or not audit.attacks.families else _attacks(audit.attacks),
        "cuts": [_cuts(audit.cuts)] if audit.cuts.groups else [],
    }


def _position(audit: Audit) -> list[RenderableType]:
    sizes = audit.positions.sizes
    # Of scores that no order changes, slots that are not sure tell which rollout stood where by chance.
    if not sizes or (audit.swaps.change.moved.value == 0 and not any(size.sure for size in sizes)):
        return []
    most = sizes[0]
    table = _table(header=True)
    table.add_column(f"slot of {most.size}", justify="right")
    table.add_column("mean score, less that of the prompt")
    table.add_column()
    largest = max(_SEEN, *(abs(slot.value or 0.0) for slot in most.slots))
    for number, slot in enumerate(most.slots, 1):
        value = slot.value or 0.0
        bar = "█" * round(_BAR_WIDTH * abs(value) / largest)
        table.add_row(str(number), _estimate(slot, "signed"), Text(bar, style="green" if value > 0 else "red"))
    share = "unknown" if most.share is None else f"{most.share:.1%}"
    lines: list[RenderableType] = [
        table,
        Text(f"{counted(most.prompts, 'prompt')}; slots explain {share} of the spread in them"),
    ]
    others = sizes[1 : 1 + _OTHER_SIZES]
    if others:
        table = _table(header=True)
        for name in ("other sizes", "prompts", "first slot", "last slot", "explained"):
            table.add_column(name, justify="right")
        for size in others:
            table.add_row(
                str(size.size),
                f"{size.prompts:,}",
                _number(size.slots[0].value, "signed"),
                _number(size.slots[-1].value, "signed"),
                "-" if size.share is None else f"{size.share:.1%}",
            )
        lines.append(table)
    return lines


def _orders(swaps: Swaps) -> list[RenderableType]:
    rows = _figures(
        [
            ("pairs that come out the other way round", swaps.change.flipped, "share"),
            ("pairs with equal scores in one of the two", swaps.change.tied, "share"),
            ("how far a score moves in its group", swaps.change.moved, "plain"),
            ("agreement of the first two orders (1 perfect, 0 chance)", swaps.agreement, "signed"),
        ]
    )
    if swaps.rho is None:
        return [rows]
    table = _table(header=True)
    for name in ("orders", "reliability", "correlation with truth"):
        table.add_column(name, justify="right")
    for plan in swaps.planned:
        table.add_row(str(plan.orders), f"{plan.reliability:.2f}", _number(plan.r, "correlation"))
    return [rows, Text(f"rho {swaps.rho:.2f}: correlation of two orders' scores, from which is planned:"), table]


def _repeats(repeats: Repeats) -> RenderableType:
    return _figures(
        [
            ("how far a score moves, asked again", repeats.change.moved, "plain"),
            ("how far in another order", repeats.other_order.moved, "plain"),
            ("pairs that come out the other way round, asked again", repeats.change.flipped, "share"),
        ]
    )


def _trait(name: str, trait: Trait) -> Iterable[tuple[str, Estimate, str]]:
    yield f"correlation of {name} with the scores, in groups", trait.judge, "correlation"
    yield f"correlation of {name} with truth", trait.truth, "correlation"
    yield "  the first less the second", trait.excess, "correlation"


def _attacks(attacks: AttackEffects) -> list[RenderableType]:
    table = _table(header=True)
    table.add_column("family")
    for name in ("attacked", "failed", "score gains", "sure", "not last"):
        table.add_column(name, justify="right")
    for one in attacks.families:
        table.add_row(
            one.name,
            str(one.asked),
            str(one.failed or "-"),
            _estimate(one.change, "signed") if one.compared >= _FEW else _number(one.change.value, "signed"),
            "yes" if one.sure and not one.replaces else "",
            _number(one.not_last.value, "share") if one.replaces else "",
        )
    return [
        _figures(
            [
                ("score gained by text added to the work", attacks.added, "signed"),
                ("  by claims and pleas", attacks.pleas, "signed"),
                ("  by filler and padding, which only add length", attacks.plain, "signed"),
                ("score gained where it replaces the work", attacks.replaced, "signed"),
                ("replaced work does not come last", attacks.not_last, "share"),
            ]
        ),
        table,
    ]


def _cuts(cuts: CutEffects) -> RenderableType:
    return _figures(
        [
            (f"how far a score moves when cut ({counted(cuts.groups, 'group')})", cuts.change.moved, "plain"),
            ("how far when asked again, uncut", cuts.again.moved, "plain"),
            ("accuracy of one order, whole", cuts.accuracy_whole, "plain"),
            ("accuracy of one order, cut", cuts.accuracy_cut, "plain"),
        ]
    )


def _figures(rows: Iterable[tuple[str, Estimate, str]]) -> Table:
    table = _table()
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    for name, estimate, form in rows:
        if estimate.value is not None:
            table.add_row(name, _estimate(estimate, form))
    return table


# With z no zero is negative.
_FORMS = {"plain": "{:z.3f}", "signed": "{:+z.3f}", "correlation": "{:+z.2f}", "share": "{:.1%}"}


def _estimate(estimate: Estimate, form: str) -> str:
    value = _number(estimate.value, form)
    if estimate.interval is None:
        return value
    low, high = (_FORMS[form].format(end) for end in estimate.interval)
    return f"{value} ({low} to {high})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else _FORMS[form].format(value)


def _table(*, header: bool = False) -> Table:
    return Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=header,
        header_style="underline",
        collapse_padding=True,
    )
