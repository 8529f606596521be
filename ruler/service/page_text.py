"""Text and numbers as the pages show them.

Whatever a template prints goes through `shown` and then through Jinja's escaping: the first makes visible what a reader
could not see or be misled by, the second makes it text.
"""

from __future__ import annotations

from datetime import UTC, datetime

from ruler.packing.neutralise import neutralise

DASH = "–"


class AsIs(str):
    """Text of our own, or text that was made visible already."""

    __slots__ = ()


def shown(value: object) -> object:
    """What a template prints: text with its odd characters made visible, anything else as it is.

    Raises:
        TypeError: None; a template has to say what stands in its place.
    """
    if value is None:
        raise TypeError("a template prints None")
    if isinstance(value, str) and not isinstance(value, AsIs) and not hasattr(value, "__html__"):
        return neutralise(value)[0]
    return value


def cut(text: str, max_chars: int) -> str:
    """The text, or its beginning and end around a `…` where it is longer."""
    if len(text) <= max_chars:
        return text
    tail = max_chars // 4
    return f"{text[: max_chars - tail - 1]}…{text[len(text) - tail :]}"


def count(number: int) -> str:
    """`12,345`."""
    return f"{number:,}"


def duration(seconds: float | None) -> str:
    """`340 ms`, `1.2 s`, `3.5 min`, `2.0 h`; a dash where there is none."""
    if seconds is None:
        return DASH
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_997 else f"{seconds / 3600:.1f} h"


def age(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h`, `4 d`; 0 s for what lies in the future, as other clocks may have it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def moment(unix_seconds: float) -> str:
    """`2025-01-31T12:00:05Z`, for `datetime` attributes and tooltips."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def usd(amount: float | None) -> str:
    """`$1.25`, `$0.0021`; a dash where the price is unknown."""
    if amount is None:
        return DASH
    if amount == 0 or amount >= 0.995:
        return f"${amount:,.2f}"
    return f"${amount:.2g}" if amount >= 0.0001 else "<$0.0001"


def share(part: float | None) -> str:
    """`34 %`; a dash where there is none."""
    return DASH if part is None else f"{part * 100:.0f} %"


def score(value: float | None) -> str:
    """`0.73`; a dash where there is none."""
    return DASH if value is None else f"{value:.2f}"


def deviation(value: float) -> str:
    """A standard error: `0.04`, `<0.01`."""
    return f"{value:.2f}" if value >= 0.005 or value == 0 else "<0.01"


def rate(per_second: float) -> str:
    """Groups over time: `3.4 /s`, `12 /min`."""
    if per_second >= 1:
        return f"{per_second:,.1f} /s" if per_second < 100 else f"{per_second:,.0f} /s"
    per_minute = per_second * 60
    return f"{per_minute:.0f} /min" if per_minute >= 9.95 or per_minute == 0 else f"{per_minute:.1f} /min"


FILTERS = {
    function.__name__: function for function in (cut, count, duration, age, moment, usd, share, score, deviation, rate)
}
"""For templates, by name."""
