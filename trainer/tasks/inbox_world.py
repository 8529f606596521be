"""Inboxes for the `inbox` task: mails about who meets whom, where and when, in a full-text index.

An inbox is drawn from a seed, facts and all: who knows one inbox knows nothing of the next. A *main* mail is the only
one on its event with its person, and what it says is asked for. A *distractor* shares a person or an event with a main
mail and is as full of days, places and prices, so that an answer can be found in the wrong mail as easily as in the
right one.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Anna Ben Carla David Emma Felix Greta Hugo Ida Jonas Kira Leon Mia Nina Oscar Paula Quentin Rosa Simon Tessa Ugo "
    "Vera Walter Yara"
)
EVENTS = _words(
    "barbecue class concert dinner game hike lecture lunch meeting party picnic rehearsal tour trip wedding workshop"
)
VALUES: Mapping[str, tuple[str, ...]] = {
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "place": _words(
        "beach bridge castle church garden harbour hotel library market museum park school square stadium station "
        "theatre"
    ),
    "price": tuple(str(price) for price in range(10, 90, 5)),
}
"""What can be asked for -> its values. A blind guess is right in 9 of 100 cases."""

ASKING: Mapping[str, str] = {"day": "When is the", "place": "Where is the", "price": "How much is the"}

NUM_MAIN_MAILS = 80
"""Five on each event and three with each person: a search for one of the two does not find the right one."""
NUM_DISTRACTORS = 120
"""More than half of all mails, so that hits are mixed; and 200 ids are a small vocabulary."""
NUM_HITS = 3
"""Most hits of a search: enough to see that a query was too wide, few enough for a short context."""
_MAX_QUERY_WORDS = 16
"""Words of a query that are looked for; the rest of a longer one is dropped, so that its cost stays small."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail of an inbox."""

    subject: str
    body: str
    facts: Mapping[str, str]
    """What it says: a value for each of `VALUES`, whether it is the right one to a question or not."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one main mail answers."""

    name: str
    event: str
    asked: str
    """One of `VALUES`."""
    mail_id: int
    """The mail that holds the answer."""
    answer: str

    @property
    def text(self) -> str:
        return f"{ASKING[self.asked]} {self.event} with {self.name}?"


class Inbox:
    """Mails, numbered from 1, and the questions that they answer. Not changed after it is made, so shared by all."""

    def __init__(self, mails: Sequence[Mail], questions: Sequence[Question]) -> None:
        self.mails = tuple(mails)
        self.questions = tuple(questions)
        # Read by whichever thread steps an environment; SQLite itself lets only one in at a time.
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._index.close)
        with self._index:
            self._index.execute("CREATE VIRTUAL TABLE mail USING fts5(subject, body)")
            self._index.executemany(
                "INSERT INTO mail (rowid, subject, body) VALUES (?, ?, ?)",
                [(number, mail.subject, mail.body) for number, mail in enumerate(self.mails, start=1)],
            )

    def mail(self, mail_id: int) -> Mail | None:
        """The mail of that number; None where there is none."""
        return self.mails[mail_id - 1] if 1 <= mail_id <= len(self.mails) else None

    def search(self, query: str) -> tuple[int, ...]:
        """Ids of the mails that hold any word of the query, best first by BM25, at most `NUM_HITS`.

        Equally good ones stand in the order of their ids. A query is words and nothing else: quotes, operators and
        wildcards of the index's query language mean nothing in it.
        """
        words = [match[0] for match in itertools.islice(re.finditer(r"\w+", query), _MAX_QUERY_WORDS)]
        if not words:
            return ()
        hits = self._index.execute(
            "SELECT rowid FROM mail WHERE mail MATCH ? ORDER BY bm25(mail), rowid LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), NUM_HITS),
        )
        return tuple(mail_id for (mail_id,) in hits)


@lru_cache(maxsize=128)
def load_inbox(split: str, number: int) -> Inbox:
    """The inbox of that number in a split, the same in every process; built once for as long as it is in use."""
    return draw_inbox(Random(f"inbox {split} {number}"))  # text: seeds by its SHA-512, not by Python's hash


def draw_inbox(random: Random) -> Inbox:
    """A new inbox: main mails about different pairs of person and event, and distractors, in mixed order."""
    pairs = random.sample(list(itertools.product(NAMES, EVENTS)), NUM_MAIN_MAILS)
    written: list[tuple[Mail, tuple[str, str] | None]] = []
    for name, event in pairs:
        written.append((_main_mail(name, event, _draw_facts(random)), (name, event)))
    for _ in range(NUM_DISTRACTORS):
        name, event = random.choice(pairs)
        distractor = _mail_of_name if random.random() < 0.5 else _mail_of_event
        written.append((distractor(name, event, _draw_facts(random)), None))
    random.shuffle(written)
    questions = [
        Question(*pair, asked, mail_id, mail.facts[asked])
        for mail_id, (mail, pair) in enumerate(written, start=1)
        if pair is not None
        for asked in VALUES
    ]
    random.shuffle(questions)
    return Inbox([mail for mail, _ in written], questions)


def _draw_facts(random: Random) -> Mapping[str, str]:
    return {asked: random.choice(values) for asked, values in VALUES.items()}


def _main_mail(name: str, event: str, facts: Mapping[str, str]) -> Mail:
    body = f"The {event} with {name} is on {facts['day']} at the {facts['place']} and costs {facts['price']}."
    return Mail(f"{event} with {name}", body, facts)


def _mail_of_event(name: str, event: str, facts: Mapping[str, str]) -> Mail:
    # As many words as a main mail: BM25 then ranks neither kind above the other for the event alone.
    body = f"The {event} last year was on {facts['day']} at the {facts['place']} and cost {facts['price']}."
    return Mail(f"{event} last year", body, facts)


def _mail_of_name(name: str, event: str, facts: Mapping[str, str]) -> Mail:
    body = f"On {facts['day']} {name} was at the {facts['place']} and paid {facts['price']}."
    return Mail(f"news from {name}", body, facts)
