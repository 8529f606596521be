"""Sums written with plain numbers: read and calculated, without `eval`."""

from __future__ import annotations

import math
import re
from itertools import pairwise

_MAX_CHARS = 200
"""Longer sums are no sums: it bounds the time that one can take."""

_NUMBER = re.compile(r"[-+−]?[$€£]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)")
_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|[-+*/()%])")
_OF_SUMS = "-+*/()$%,.×÷−0123456789 "
_OPERATOR = re.compile(r"\d[ )%]*[-+*/×÷−]")
_FIRST_NUMBER = re.compile(r" {0,3}([-−]?\$?\d[\d,]{0,20}(?:\.\d{1,20})?)(?![\d,.]*(?: *[-+*/×÷−(^_]|[%a-zA-Z\\{]))")
"""A number at the start, unless it goes on to be a sum or a power itself."""
_LATEX = (("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), *((f"\\{bracket}", "\n") for bracket in "()[]"))
_PRIORITY = {"+": 1, "-": 1, "*": 2, "/": 2, "negative": 3}


def read_number(text: str) -> float | None:
    """The number that the whole text is, such as 1,234.5, -3 or $18; None for anything else."""
    text = text.strip()
    if len(text) > _MAX_CHARS or not _NUMBER.fullmatch(text):
        return None
    value = float(re.sub("[$€£,]", "", text).replace("−", "-"))
    return value if math.isfinite(value) else None


def same_number(a: float, b: float) -> bool:
    """Whether two numbers are equal but for rounding: to two decimals, or to three digits."""
    return math.isclose(a, b, rel_tol=1e-3, abs_tol=0.01)


def calculate(text: str) -> float | None:
    """The value of a sum with + - * / and brackets; 20% is 0.2. None when it is no such sum, or has no finite value."""
    if len(text) > _MAX_CHARS:
        return None
    text = re.sub("[$€£,]", "", text).replace("×", "*").replace("÷", "/").replace("−", "-").rstrip()
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match[1])
        at = match.end()
    try:
        value = _value(tokens)
    except (ZeroDivisionError, OverflowError):
        return None
    return value if value is not None and math.isfinite(value) else None


def _value(tokens: list[str]) -> float | None:
    # Two stacks and no recursion: brackets nest as deep as the policy likes.
    values: list[float] = []
    waiting: list[str] = []

    def settle(priority: int) -> bool:
        while waiting and waiting[-1] != "(" and _PRIORITY[waiting[-1]] >= priority:
            sign = waiting.pop()
            if len(values) < 1 + (sign != "negative"):
                return False
            right = values.pop()
            if sign == "negative":
                values.append(-right)
                continue
            left = values.pop()
            values.append(
                left + right
                if sign == "+"
                else left - right
                if sign == "-"
                else left * right
                if sign == "*"
                else left / right
            )
        return True

    operand = False  # whether a value stands right before
    for token in tokens:
        if token[0] not in "+-*/()%":
            if operand:
                return None
            values.append(float(token))
            operand = True
        elif token == "%":
            if not operand:
                return None
            values[-1] /= 100
        elif token == "(":
            if operand:
                return None
            waiting.append(token)
        elif token == ")":
            if not operand or not settle(1) or not waiting:
                return None
            waiting.pop()
        elif operand:
            if not settle(_PRIORITY[token]):
                return None
            waiting.append(token)
            operand = False
        elif token == "-":
            waiting.append("negative")
        else:
            return None
    if not operand or not settle(1) or waiting or len(values) != 1:
        return None
    return values[0]


def holds(left: str, right: str) -> bool:
    """Whether a sum has the value said; False as well when one of the two cannot be read."""
    value, said = calculate(left), read_number(right)
    return value is not None and said is not None and same_number(value, said)


def equations_hold(text: str) -> list[bool]:
    """For each "sum = number" in plain numbers, such as "3 + 4 = 7", whether it is right.

    What cannot be read as such is left out, so are variables and powers. Only what stands within 200 characters of the
    sign is read.
    """
    for sign, plain in _LATEX:
        text = text.replace(sign, plain)
    found = []
    for left, right in pairwise(text.split("=")):
        before = left[-_MAX_CHARS:]
        rest = before.rstrip(_OF_SUMS)
        run = before[len(rest) :]
        said = _FIRST_NUMBER.match(right[:_MAX_CHARS])
        stripped = run.lstrip(" ,.")
        alone = not rest or rest.endswith(("\n", ":")) or len(stripped) < len(run)
        if said is None or not alone or not stripped[:1].isdigit() or not _OPERATOR.search(stripped):
            continue
        if calculate(stripped) is not None:
            found.append(holds(stripped, said[1]))
    return found
