from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ruler.errors import ReplyError
from ruler.reply import MAX_REPLY_CHARS, Verdict, read_reply, reply_schema

IDS = ("KQX", "BCD", "TRW")


def item(name: Any, score: Any) -> dict[str, Any]:
    return {"id": name, "score": score}


def reply(*items: Any, notes: Any = ()) -> str:
    return json.dumps({"notes": list(notes), "scores": list(items)})


GOOD_ITEMS = (item("KQX", 73), item("BCD", 0), item("TRW", 100))
GOOD = reply(*GOOD_ITEMS, notes=[{"id": name, "note": f"about {name}"} for name in IDS])
GOOD_SCORES = {"KQX": 0.73, "BCD": 0.0, "TRW": 1.0}
OTHER = reply(item("KQX", 1), item("BCD", 2), item("TRW", 3))
OTHER_SCORES = {"KQX": 0.01, "BCD": 0.02, "TRW": 0.03}
FOREIGN = reply(item("AAA", 5), item("BBB", 6))


def refused(text: str, ids: Sequence[str] = IDS) -> ReplyError:
    with pytest.raises(ReplyError) as caught:
        read_reply(text, ids)
    assert caught.value.raw == text
    str(caught.value).encode("utf-8")
    return caught.value


def test_a_good_reply() -> None:
    assert read_reply(GOOD, IDS) == Verdict(GOOD_SCORES, {name: f"about {name}" for name in IDS})


def test_every_rollout_gets_its_own_score_in_whatever_order() -> None:
    assert read_reply(reply(*reversed(GOOD_ITEMS)), IDS).scores == GOOD_SCORES
    assert read_reply(reply(*reversed(GOOD_ITEMS)), tuple(reversed(IDS))).scores == GOOD_SCORES


@pytest.mark.parametrize(
    ("written", "score"),
    [
        ("0", 0.0),
        ("100", 1.0),
        ("-0", 0.0),
        ("99.5", 0.995),
        ("1e2", 1.0),
        ("50E-1", 0.05),
        ("0.0", 0.0),
        ("100.000", 1.0),
    ],
)
def test_numbers_in_range(written: str, score: float) -> None:
    assert read_reply(f'{{"scores": [{{"id": "A", "score": {written}}}]}}', ("A",)).scores == {"A": score}


@pytest.mark.parametrize(
    "written",
    [
        *("101", "-3", "100.0000001", "-0.001", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400),
        *("9" * 5000, "-" + "9" * 5000, '"0.8x"', '"73"', '"73%"', '"73/100"', "true", "false", "null", "[73]", "{}"),
        *(
            '{"value": 73}',
            "73.",
            ".5",
            "073",
            "0x10",
            "+5",
            "7 3",
            "73%",
            "1_0",
            "٧٣",
            "",
            "nan",
            "inf",
            "None",
            "'73'",
        ),
    ],
)
def test_what_is_no_number_in_range_is_refused(written: str) -> None:
    refused(f'{{"scores": [{{"id": "A", "score": {written}}}]}}', ("A",))
    refused(f'{{"scores": [{{"id": "B", "score": 5}}, {{"id": "A", "score": {written}}}]}}', ("A", "B"))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (GOOD_ITEMS[:2], "no score for TRW"),
        ((), "no score for KQX, BCD, TRW"),
        ((*GOOD_ITEMS, item("KQX", 73)), "KQX is scored twice"),
        ((*GOOD_ITEMS, item("KQX", 74)), "KQX is scored twice"),
        ((*GOOD_ITEMS, item("ZZZ", 50)), "unknown id 'ZZZ'"),
        ((*GOOD_ITEMS[:2], item("trw", 50)), "unknown id 'trw'"),
        ((*GOOD_ITEMS[:2], item(" TRW", 50)), "unknown id ' TRW'"),
        ((*GOOD_ITEMS[:2], item("", 50)), "unknown id ''"),
        ((*GOOD_ITEMS[:2], item("TRW\u200b", 50)), "unknown id"),
        ((*GOOD_ITEMS, item(None, 50)), "is due"),
        ((*GOOD_ITEMS, item(["KQX"], 50)), "is due"),
        ((*GOOD_ITEMS, item({}, 50)), "is due"),
        ((*GOOD_ITEMS, item(1, 50)), "is due"),
        ((*GOOD_ITEMS, "KQX"), "is due"),
        ((*GOOD_ITEMS, None), "is due"),
        ((*GOOD_ITEMS, [73]), "is due"),
        ((73, 0, 100), "is due"),
        ((*GOOD_ITEMS[:2], {"id": "TRW"}), "is None, not a number"),
        ((*GOOD_ITEMS[:2], {"id": "TRW", "value": 3}), "is None, not a number"),
        ((*GOOD_ITEMS[:2], item("TRW", "x" * 10_000)), "..., not a number"),
        ((*GOOD_ITEMS[:2], item("TRW", 101)), "101, not in 0..100"),
        (({"KQX": 73}, {"BCD": 1}, {"TRW": 2}), "is due"),
    ],
)
def test_wrong_items_are_named(items: tuple[Any, ...], said: str) -> None:
    assert said in str(refused(reply(*items)))


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n", "\ufeff", "no", "73", "null", "[]", "{}", '"scores"', "KQX: 73, BCD: 0, TRW: 100", "\ud800", "\0"),
        '{"scores": {"KQX": 73, "BCD": 0, "TRW": 100}}',
        '{"scores": null}',
        '{"SCORES": []}',
        json.dumps(GOOD_ITEMS),
        json.dumps({"result": json.loads(GOOD)}),
        json.dumps(GOOD),
        GOOD.replace('"', "'"),
        GOOD.replace('"', "\u201d"),
        GOOD[:-1] + ",}",
        FOREIGN,
        '{"scores": [],' + GOOD[1:],
        GOOD[:-1] + ', "scores": []}',
        GOOD[:-1] + ', "notes": []}',
        GOOD[:-1] + ', "x": 1, "x": 1}',
        GOOD.replace('"score": 73', '"score": 73, "score": 73'),
        GOOD.replace('"score": 73', '"score": 73, "score": 5'),
        GOOD.replace('"id": "KQX", "score"', '"id": "KQX", "id": "KQX", "score"'),
        GOOD.replace('"score": 73', "\n// my favourite\n" + '"score": 73'),
        "{" * 100_000,
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"scores":' + "[" * 100_000,
        '{"scores":' + "[" * 400 + "]" * 400 + "}",
        '{"scores": [' + '{"id":' * 300 + "1" + "}" * 300 + "]}",
        "x" * (MAX_REPLY_CHARS + 1),
        GOOD + " " * MAX_REPLY_CHARS,
        '{"a":' * (MAX_REPLY_CHARS // 5),
        '{"a":[' * 400 + "1," * 400_000,
        '{"a":[{},' * 300 + "{}," * 300_000,
    ],
)
def test_what_is_no_reply_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("name", ["id", "score", "notes", "scores"])
def test_values_nested_as_deep_as_python_goes(name: str) -> None:
    for depth in range(900, 1010):
        deep = "[" * depth + "]" * depth
        text = {
            "id": f'{{"scores": [{{"id": {deep}, "score": 1}}]}}',
            "score": f'{{"scores": [{{"id": "KQX", "score": {deep}}}]}}',
            "notes": f'{{"notes": {deep}, "scores": []}}',
            "scores": f'{{"scores": {deep}}}',
        }[name]
        refused(text)


@pytest.mark.parametrize("stop", range(len(GOOD)))
def test_a_reply_that_is_cut_off_is_refused(stop: int) -> None:
    refused(GOOD[:stop])
    refused("```json\n" + GOOD[:stop])


@pytest.mark.parametrize("stop", range(len(GOOD)))
def test_a_wrapped_reply_that_is_cut_off_is_refused(stop: int) -> None:
    refused('{"draft": ' + OTHER + ', "final": ' + GOOD[:stop])
    refused('{"draft": ' + OTHER + ', "final": "' + GOOD[:stop].replace('"', '\\"'))


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}",
        f"Here you are: {GOOD}\nAnything else?",
        f"\ufeff{GOOD}",
        f"[{GOOD}]",
        f'<think>I think {{KQX}} is {{\'a\': 1}} and \\frac{{1}}{{2}}, {{"a", "b"}} or {{"c": …}}</think>{GOOD}',
        f'One could open with {{" and go on. {GOOD}',
        f"{OTHER}\nOn second thoughts:\n{GOOD}",
        f"{reply(*GOOD_ITEMS[:2])}\nI forgot one:\n{GOOD}",
        f"{GOOD[:60]}\nAgain:\n{GOOD}",
        f"{FOREIGN}{GOOD}",
        f"{GOOD}{FOREIGN}",
        f"{GOOD} (the rollout had answered {FOREIGN})",
        f'{GOOD} {{"done": true}} {{"id": "KQX"}} }}',
        f"{GOOD}\n{GOOD}",
        json.dumps(json.loads(GOOD), indent=2),
        GOOD.replace('"notes"', '"extra": {"scores": [1]}, "notes"'),
        GOOD.replace('"score": 73', '"score": 73, "why": [{"score": 1}]'),
    ],
)
def test_what_stands_around_the_last_complete_object_does_not_matter(text: str) -> None:
    assert read_reply(text, IDS).scores == GOOD_SCORES


@pytest.mark.parametrize(
    "newer",
    [
        *(OTHER[:stop] for stop in range(OTHER.index("[{") + 2, len(OTHER))),
        reply(*GOOD_ITEMS[:2]),
        reply(item("KQX", 101), item("BCD", 1), item("TRW", 1)),
        reply(item("kqx", 1), item("bcd", 1), item("trw", 1)),
        reply(item(" KQX ", 1)),
        reply(item(None, 1)),
        reply(),
        '{"scores": {"KQX": 1, "BCD": 1, "TRW": 1}}',
        json.dumps({"final": json.loads(OTHER)}),
        OTHER[:-1] + ', "scores": [{"id": "AAA", "score": 1}]}',
        OTHER.replace("1}", "1,}"),
        FOREIGN + OTHER[:-3],
        OTHER[:-3] + FOREIGN,
    ],
)
def test_an_older_attempt_does_not_stand_in_for_a_newer_one_that_failed(newer: str) -> None:
    refused(f"{GOOD}\nNo, rather:\n{newer}")


def test_notes_are_extra() -> None:
    def notes(value: Any) -> Mapping[str, str]:
        return read_reply(json.dumps({"notes": value, "scores": GOOD_ITEMS}), IDS).notes

    assert read_reply(json.dumps({"scores": GOOD_ITEMS}), IDS).notes == {}
    assert notes([{"id": "KQX", "note": "fine"}]) == {"KQX": "fine"}
    odd = [None, 1, "x", [], {}, {"id": ["KQX"], "note": "x"}, {"id": "KQX", "note": 3}, {"id": "ZZZ", "note": "x"}]
    for value in (None, 1, "x", {}, {"KQX": "x"}, odd):
        assert notes(value) == {}
    assert notes([{"id": "KQX", "note": "a\u202eb\ud800"}]) == {"KQX": "a[U+202E]b[U+D800]"}
    assert len(notes([{"id": "KQX", "note": "x" * 100_000}])["KQX"]) == 2_000


def test_the_schema_is_one_for_all_requests_and_strict() -> None:
    assert reply_schema(notes=True) == reply_schema(notes=True)
    assert list(reply_schema(notes=True)["properties"]) == ["notes", "scores"]
    assert list(reply_schema(notes=False)["properties"]) == ["scores"]
    for notes in (True, False):
        schema = reply_schema(notes=notes)
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
        text = json.dumps(schema)
        assert "minimum" not in text
        assert "KQX" not in text


# Hostile replies, against a second reader that was written another way: it finds objects by counting braces, keeps
# numbers as they are written, and keeps pairs, so that nothing is merged.


class Number(str):
    pass


class Pairs(list[tuple[str, Any]]):
    pass


def spans(text: str) -> list[str]:
    """Every balanced {...} in the text, strings skipped, whatever it is nested in."""
    found = []
    for start, char in enumerate(text):
        if char != "{":
            continue
        depth, quoted, at = 0, False, start
        while at < len(text):
            here = text[at]
            if quoted:
                at += here == "\\"
                quoted = here != '"'
            elif here == '"':
                quoted = True
            elif here in "{}":
                depth += 1 if here == "{" else -1
                if not depth:
                    found.append(text[start : at + 1])
                    break
            at += 1
    return found


def pair(pairs: Any, key: str) -> Any:
    values = [value for name, value in pairs if name == key] if isinstance(pairs, Pairs) else []
    return values[0] if len(values) == 1 else None


def statements(text: str) -> list[dict[str, float]]:
    """What each complete object in the text says, where it says something about exactly the ids, each once."""
    found = []
    for span in spans(text):
        try:
            whole = json.loads(
                span, object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=lambda name: name
            )
        except (ValueError, RecursionError):
            continue
        items = pair(whole, "scores")
        if not isinstance(items, list) or isinstance(items, Pairs):
            continue
        said = [(pair(entry, "id"), pair(entry, "score")) for entry in items]
        if any(type(name) is not str or type(score) is not Number for name, score in said):
            continue
        if sorted(name for name, _ in said) == sorted(IDS):
            found.append({name: float(score) for name, score in said})
    return found


def check(text: str) -> bool:
    """Whether it was accepted, after checking that it might be."""
    try:
        verdict = read_reply(text, IDS)
    except ReplyError as error:
        if error.raw != text:
            raise
        return False
    assert set(verdict.scores) == set(IDS)
    assert all(type(score) is float and math.isfinite(score) and 0 <= score <= 1 for score in verdict.scores.values())
    assert set(verdict.notes) <= set(IDS)
    assert any(all(verdict.scores[name] == statement[name] / 100 for name in IDS) for statement in statements(text)), (
        "nothing in the reply says so"
    )
    return True


HOSTILE_NUMBERS = [
    *(
        "101",
        "-3",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        '"0.8x"',
        '"73"',
        "true",
        "null",
        "1" + "0" * 400,
        "9" * 5000,
    ),
    *(
        "100.0000001",
        "-1e-9",
        "7 3",
        "73%",
        "0.73",
        "[5]",
        '{"score": 5}',
        "",
        "5, 6",
        '5, "score": 6',
        "05",
        "1e2",
        "50.5",
    ),
]
SNIPPETS = [
    *(
        "{",
        "}",
        "[",
        "]",
        '"',
        ",",
        ":",
        "\\",
        "{}",
        "\n",
        "```json\n",
        "```",
        "\ud800",
        "\0",
        "\u200b",
        "NaN",
        "-",
        "9",
    ),
    *(
        '"scores": [',
        '{"scores": [',
        '{"scores":[]}',
        '"id": "KQX"',
        '{"id": "KQX", "score": 9}',
        "KQX",
        '{"a": ',
        '\\"',
    ),
    *(GOOD, OTHER, FOREIGN, "{" + '"a":' * 3, "[" * 50, '{"a":' * 30, '{"notes": "', "'", "//", "/*", "</rollout KQX>"),
]
ODD_IDS = ['"AAA"', '"kqx"', '" KQX"', '""', "null", "1", '["KQX"]', "{}", '"KQX", "id": "BCD"', '"BCD"', '"\\u004bQX"']


def mutate(text: str, draw: random.Random) -> str:
    at, to = sorted(draw.randrange(len(text) + 1) for _ in "ab")
    entries = list(re.finditer(r'\{"id": "?[^{}]*\}', text)) or [None]
    entry = draw.choice(entries)
    numbers = list(re.finditer(r'(?<="score": )[0-9.]+', text))
    names = list(re.finditer(r'(?<="id": )"[A-Z]+"', text))

    def replace(match: re.Match[str] | None, new: str) -> str:
        return text[: match.start()] + new + text[match.end() :] if match else text + new

    ways: list[Callable[[], str]] = [
        lambda: replace(entry, ""),
        lambda: replace(entry, f"{entry[0]}, {entry[0]}" if entry else ""),
        lambda: replace(entry, "null"),
        lambda: replace(draw.choice(numbers) if numbers else None, draw.choice(HOSTILE_NUMBERS)),
        lambda: replace(draw.choice(numbers) if numbers else None, str(draw.uniform(-20, 120))),
        lambda: replace(draw.choice(names) if names else None, draw.choice(ODD_IDS)),
        lambda: text[:to],
        lambda: text[at:],
        lambda: text[:at] + text[to:],
        lambda: text[:at] + draw.choice(SNIPPETS) + text[at:],
        lambda: text[:at] + draw.choice(SNIPPETS) + text[to:],
        lambda: draw.choice(SNIPPETS) + text,
        lambda: text + draw.choice(SNIPPETS),
        lambda: text[:at] + text[at:to] * 2 + text[to:],
        lambda: '{"result": ' + text + "}",
        lambda: '{"draft": ' + text + ', "final": ' + OTHER[: draw.randrange(len(OTHER))],
        lambda: json.dumps(text),
        lambda: text.replace('"scores"', draw.choice(['"Scores"', '"score"', '"scores": [], "scores"', "scores"])),
        lambda: text.replace('"', draw.choice(["'", '\\"', "”"])),
        lambda: text + "\n" + OTHER[: draw.randrange(len(OTHER) + 1)],
        lambda: OTHER[: draw.randrange(len(OTHER) + 1)] + text,
        lambda: text.upper() if draw.random() < 0.5 else text.lower(),
        lambda: text[:at] + chr(draw.randrange(0x110000)) + text[at:],
    ]
    return draw.choice(ways)()


def hostile(seed: int, steps: int, noise: str) -> str:
    draw = random.Random(seed)
    text = draw.choice([GOOD, GOOD, OTHER, reply(*GOOD_ITEMS), json.dumps(json.loads(GOOD), indent=1)])
    for _ in range(steps):
        text = mutate(text, draw)[:20_000]
    at = draw.randrange(len(text) + 1)
    return text[:at] + noise + text[at:]


hostile_replies = st.builds(
    hostile,
    st.integers(0, 2**32),
    st.integers(0, 6),
    st.one_of(st.just(""), st.text(st.characters(exclude_categories=()), max_size=4)),
)
QUICK = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(hostile_replies)
@settings(max_examples=300, suppress_health_check=QUICK)
def test_hostile_replies_never_become_a_number(text: str) -> None:
    check(text)


@pytest.mark.slow
@given(hostile_replies)
@settings(max_examples=10_000, suppress_health_check=QUICK)
def test_ten_thousand_hostile_replies_never_become_a_number(text: str) -> None:
    check(text)


def test_the_hostile_replies_are_not_all_refused() -> None:
    accepted = sum(check(hostile(seed, seed % 4, "")) for seed in range(1000))
    assert 250 < accepted < 750


@given(st.text(st.characters(exclude_categories=())))
def test_text_without_any_reply_never_becomes_a_number(text: str) -> None:
    assert not check(text)


@given(
    st.dictionaries(st.sampled_from(IDS), st.one_of(st.integers(0, 100), st.floats(0, 100)), min_size=3),
    st.text(st.characters(exclude_characters='{}"')),
    st.text(st.characters(exclude_characters='{}"')),
    st.booleans(),
)
def test_every_good_reply_is_accepted(scores: dict[str, float], before: str, after: str, escaped: bool) -> None:
    body = json.dumps({"notes": [], "scores": [item(*pair) for pair in scores.items()]}, ensure_ascii=escaped)
    assert read_reply(before + body + after, IDS).scores == {name: score / 100 for name, score in scores.items()}


def test_a_newer_reply_that_is_cut_off_before_its_scores_voids_the_older() -> None:
    with pytest.raises(ReplyError, match="another reply that is cut off"):
        read_reply(GOOD + '\nOn reflection: {"notes": [{"id": "' + IDS[0] + '", "note": "wo', IDS)
