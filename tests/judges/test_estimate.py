from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from judges.estimate import TokenEstimator
from ruler.types import Sampling, Usage
from tests.judges.questions import question

LONG = "x" * 988  # with the system message's 12 bytes: 1,000


def test_the_first_guess_is_on_the_high_side_and_keeps_to_max_tokens() -> None:
    guess = TokenEstimator().estimate(question(LONG))
    assert guess.input_tokens == 350
    assert guess.output_tokens == 360
    assert TokenEstimator().estimate(question(sampling=Sampling(max_tokens=50))).output_tokens == 50
    assert TokenEstimator().estimate(question(sampling=Sampling(max_tokens=9_000))).output_tokens == 9_000


def test_it_learns_and_forgets_slowly() -> None:
    estimator = TokenEstimator()
    estimator.learn(question(LONG), Usage(1, 500, 0, 900))
    assert estimator.estimate(question(LONG)).input_tokens == 500
    assert estimator.estimate(question(LONG)).output_tokens == 900
    for _ in range(400):
        estimator.learn(question(LONG), Usage(1, 200, 0, 50))
    assert 200 <= estimator.estimate(question(LONG)).input_tokens <= 210
    assert 50 <= estimator.estimate(question(LONG)).output_tokens <= 52


def test_a_reply_that_says_nothing_teaches_nothing() -> None:
    estimator = TokenEstimator()
    before = estimator.estimate(question(LONG))
    estimator.learn(question(LONG), Usage())
    assert estimator.estimate(question(LONG)) == before


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**5)), min_size=1, max_size=20))
def test_the_next_guess_is_never_below_the_last_reply(replies) -> None:
    estimator = TokenEstimator()
    for input_tokens, output_tokens in replies:
        estimator.learn(question(LONG), Usage(1, input_tokens, 0, output_tokens))
        guess = estimator.estimate(question(LONG))
        assert guess.input_tokens >= input_tokens
        assert guess.output_tokens >= output_tokens


def test_images_and_odd_text_count() -> None:
    parts = [{"type": "text", "text": "é\ud800"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    request = question(parts)  # type: ignore[arg-type]
    assert TokenEstimator().estimate(request).input_tokens > 1_000
