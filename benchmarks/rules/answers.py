"""Whether two mathematical answers say the same, after the usual normalising of LaTeX."""

from __future__ import annotations

import math
import re

from benchmarks.rules.arithmetic import calculate

_MAX_CHARS = 500
"""Answers longer than that are compared as they stand."""

_SPACING = re.compile(r"\\(?:left|right|displaystyle|[!,;: ])|\\text(?:bf|rm|it)?\b|\\(?:mathrm|mbox|textbf)\b|[$~]")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac(\d)(\d)")
_DEGREES = re.compile(r"\^\{?\\circ\}?|°")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NAMED = re.compile(r"[a-zA-Z]\w{0,9}\s{0,5}=(?!=)")


def normalised(answer: str) -> str:
    r"""The answer without spacing, units of degree, `$`, `x =` in front and a full stop; \dfrac12 is (1)/(2)."""
    if len(answer) > _MAX_CHARS:
        return answer.strip()
    answer = _DEGREES.sub("", _SPACING.sub("", answer)).replace("\\%", "%")
    answer = _SHORT_FRACTION.sub(r"(\1)/(\2)", answer)
    answer = _FRACTION.sub(r"(\1)/(\2)", answer)
    answer = re.sub(r"\s", "", answer).replace("{", "").replace("}", "").rstrip(".")
    named = _NAMED.match(answer)
    answer = answer[named.end() :] if named else answer
    return _THOUSANDS.sub("", answer).lower()


def same_answer(a: str, b: str, *, rel_tol: float = 1e-6) -> bool:
    """Whether both are equal as normalised text, or have the same value as plain sums (1/2 and 0.5).

    A percentage equals its number with and without the sign: 20% is 20, not 0.2.
    """
    left, right = normalised(a), normalised(b)
    if left == right:
        return bool(left)
    x, y = _value(left), _value(right)
    return x is not None and y is not None and math.isclose(x, y, rel_tol=rel_tol, abs_tol=1e-9)


def _value(answer: str) -> float | None:
    # A comma that is left parts the items of a list.
    return None if "," in answer else calculate(answer.removesuffix("%"))
