"""Rules for following an instruction, where nothing is known but the instruction (LLMBar, PandaLM, human preference).

Length as it was asked for, no refusal, no repetition, the form and the number of things asked for, the instruction's
own words. The weights were set before any figure was looked at, and not fitted. These sources have no reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks.rules.reading import falling, request_of, share, word_set, words
from benchmarks.rules.rule_set import RuleSet
from ruler.rewards import Rewards, Rule
from ruler.rules import final_answer
from ruler.types import Group, Rollout

_COUNT_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COUNTS = {name: number for number, name in enumerate(_COUNT_WORDS, start=1)}
_COUNT = rf"(\d{{1,4}}|{'|'.join(_COUNTS)})"
_LENGTH = re.compile(
    rf"\b(fewer than|less than|under|at most|no more than|up to|within)?\s?\b(?:{_COUNT}|a single|a|an)[ -]"
    r"(word|sentence|paragraph)s?\b"
)
_ITEMS = re.compile(
    r"\b(?:list|name|give|suggest|brainstorm|provide|write|find|describe|identify|create|generate|propose|share)\b"
    rf"[^.?!\n]{{0,40}}?\b{_COUNT} (?!words?\b|sentences?\b|paragraphs?\b|lines?\b|minutes?\b|hours?\b|days?\b)[a-z]"
)
_LIST_LINE = re.compile(r"^[ \t]*(?:\d{1,2}[.):]|[-*•])\s", re.MULTILINE)
_BRIEF = word_set("brief briefly short concise concisely summarize summarise summary simple quick")
_STOP = word_set(
    "about above after also because been being before could does each following from given give have here into "
    "like make more most need only other please provide should some such sure text than that their them then "
    "there these they this those using very want what when where which while will with would write your yourself"
)
_REFUSALS = (
    "as an ai",
    "as a language model",
    "as a large language model",
    "i'm sorry, but",
    "i am sorry, but",
    "i cannot",
    "i can't",
    "i am unable",
    "i'm unable",
    "i am not able",
    "i'm not able",
    "<nooutput>",
)
_FILLERS = ("sure", "certainly", "of course", "absolutely", "great question", "i'd be happy", "as requested")
_SPEAKER = re.compile(r"^[^\n:]{1,40}:", re.MULTILINE)


def length_as_asked(rollout: Rollout, group: Group) -> float:
    """How near the length is to what was asked for, in [0, 1].

    Words, sentences or paragraphs where the instruction counts them. Else 1.0 for up to 200 words, falling to 0.0 at
    800, or for up to 60 and 240 where it wants it brief. 0.0 for a blank answer.
    """
    answer, request = final_answer(rollout), request_of(group).lower()
    if not answer.strip():
        return 0.0
    num_words = len(answer.split())
    asked = _LENGTH.search(request)
    if asked and not (asked[2] is None and asked[3] == "word"):  # "a word" is what the task is about, not a length
        number = _number(asked[2] or "1")
        found = {"word": num_words, "sentence": _num_sentences(answer), "paragraph": _num_paragraphs(answer)}[asked[3]]
        if asked[1]:
            number -= asked[1] in ("fewer than", "less than", "under")
            return falling(found, full=number, none=2 * number + 1)
        return max(0.0, 1.0 - max(0.0, abs(found - number) - 0.1 * number) / max(number, 1))
    full = 60 if not _BRIEF.isdisjoint(words(request)) else 200
    return falling(num_words, full=full, none=4 * full)


def as_many_as_asked(rollout: Rollout, group: Group) -> float:
    """0.0 when a number of things is asked for and neither lines, list lines nor commas make as many; else 1.0."""
    asked = _ITEMS.search(request_of(group).lower())
    if asked is None:
        return 1.0
    answer = final_answer(rollout)
    lines = sum(1 for line in answer.split("\n") if line.strip())
    separated = len(re.findall(r",(?! and\b)|\band\b", answer)) + 1
    return float(_number(asked[1]) in (len(_LIST_LINE.findall(answer)), lines, separated))


def no_refusal(rollout: Rollout, group: Group) -> float:
    """0.0 when the first 200 characters refuse, or speak of being a model; also for a blank answer; else 1.0."""
    opening = final_answer(rollout).strip()[:200].lower().replace("’", "'")
    return float(bool(opening) and not any(refusal in opening for refusal in _REFUSALS))


def no_repetition(rollout: Rollout, group: Group) -> float:
    """The share of its runs of three words that are new; 1.0 for fewer than three words."""
    said = words(final_answer(rollout))
    runs = list(zip(said, said[1:], said[2:], strict=False))
    return len(set(runs)) / len(runs) if runs else 1.0


def form_as_asked(rollout: Rollout, group: Group) -> float:
    """The share of the forms that the instruction names (list, table, JSON, code, question …) which the answer has."""
    asked, answer = set(words(request_of(group))), final_answer(rollout)
    return share(has(answer) for names, has in _FORMS if not names.isdisjoint(asked))


def on_topic(rollout: Rollout, group: Group) -> float:
    """The share of the instruction's long words, of its first 80, whose first four letters the answer has too."""
    asked = {word[:4] for word in words(request_of(group))[:80] if len(word) > 3 and word not in _STOP}
    said = {word[:4] for word in words(final_answer(rollout))}
    return share(word in said for word in sorted(asked))


def no_copy(rollout: Rollout, group: Group) -> float:
    """0.0 when the answer of six words and more is a piece of the instruction, white space and case apart; else 1.0."""
    answer = " ".join(final_answer(rollout).lower().split())
    return float(answer.count(" ") < 5 or answer not in " ".join(request_of(group).lower().split()))


def to_the_point(rollout: Rollout, group: Group) -> float:
    """0.0 when it opens with "Sure", "Certainly" and the like; else 1.0."""
    return float(not final_answer(rollout).lstrip().lower().startswith(_FILLERS))


def complete(rollout: Rollout, group: Group) -> float:
    """0.0 when an answer of more than ten words ends in a letter or a comma, as what is cut off does; else 1.0."""
    answer = final_answer(rollout).rstrip()
    last_line = answer.rpartition("\n")[2]
    return float(len(answer.split()) <= 10 or bool(_LIST_LINE.match(last_line)) or not re.search(r"[\w,]\Z", answer))


def _number(text: str) -> int:
    return _COUNTS.get(text) or int(text)


def _num_sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text)) or 1


def _num_paragraphs(text: str) -> int:
    return sum(1 for paragraph in text.split("\n\n") if paragraph.strip())


def _has_list(answer: str) -> bool:
    return len(_LIST_LINE.findall(answer)) >= 2


def _has_table(answer: str) -> bool:
    return answer.count("|") >= 4 or answer.count("\t") >= 2 or answer.count(",") >= 4


def _has_json(answer: str) -> bool:
    return ("{" in answer and "}" in answer) or ("[" in answer and "]" in answer)


def _has_code(answer: str) -> bool:
    return "```" in answer or re.search(r"[{};]|\w\(|[=<>]|\bselect\b", answer, re.IGNORECASE) is not None


def _has_question(answer: str) -> bool:
    return "?" in answer


def _has_greeting(answer: str) -> bool:
    return not {"dear", "hi", "hello", "subject", "greetings"}.isdisjoint(words(answer[:300]))


def _has_speakers(answer: str) -> bool:
    return len(_SPEAKER.findall(answer)) >= 2


def _has_verses(answer: str) -> bool:
    return answer.strip().count("\n") >= 2


_FORMS: tuple[tuple[frozenset[str], Callable[[str], bool]], ...] = (
    (frozenset(("list", "lists", "bullet", "bulleted", "numbered", "itinerary", "steps")), _has_list),
    (frozenset(("table", "csv", "spreadsheet")), _has_table),
    (frozenset(("json",)), _has_json),
    (frozenset(("code", "function", "program", "script", "regex", "sql", "html", "python", "javascript")), _has_code),
    (frozenset(("question", "questions", "quiz", "survey")), _has_question),
    (frozenset(("email", "letter")), _has_greeting),
    (frozenset(("dialogue", "dialog", "conversation")), _has_speakers),
    (frozenset(("poem", "haiku", "song", "lyrics", "limerick")), _has_verses),
)

INSTRUCTIONS = RuleSet(
    name="instructions",
    blind=Rewards(
        judge_weight=0.0,
        rules=(
            Rule("length as asked", length_as_asked, weight=1.0),
            Rule("no refusal", no_refusal, weight=1.0),
            Rule("no repetition", no_repetition, weight=1.0),
            Rule("on topic", on_topic, weight=1.0),
            Rule("as many as asked", as_many_as_asked, weight=0.5),
            Rule("form as asked", form_as_asked, weight=0.5),
            Rule("no copy", no_copy, weight=0.5),
            Rule("complete", complete, weight=0.5),
            Rule("to the point", to_the_point, weight=0.25),
        ),
    ),
    with_reference=None,
)
