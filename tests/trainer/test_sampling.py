from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from trainer.policy import Policy  # noqa: E402
from trainer.sampling import Completion, sample  # noqa: E402

NEVER = frozenset({10_000})
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17]]


def draw(
    policy: Policy,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    *,
    limit: int = 12,
    end_tokens: frozenset[int] = NEVER,
    temperature: float = 1.0,
    copies: int = 1,
    seed: int = 0,
) -> list[Completion]:
    return sample(
        policy.model,
        prompts,
        max_new_tokens=[limit] * len(prompts),
        end_tokens=end_tokens,
        temperature=temperature,
        generator=torch.Generator().manual_seed(seed),
        copies=copies,
    )


def logprobs_of(policy: Policy, prompt: Sequence[int], tokens: Sequence[int], temperature: float) -> list[float]:
    """Each token's log-probability by one pass over the whole sequence, without a cache."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0] / temperature
    logprobs = logits.log_softmax(-1)
    return [logprobs[len(prompt) - 1 + place, token].item() for place, token in enumerate(tokens)]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_logprobs_are_those_of_the_model_at_the_temperature(chat_policy: Policy, temperature: float) -> None:
    completions = draw(chat_policy, copies=3, temperature=temperature)
    assert len(completions) == 9
    for row, completion in enumerate(completions):
        expected = logprobs_of(chat_policy, PROMPTS[row // 3], completion.tokens, temperature)
        assert completion.logprobs == pytest.approx(expected, abs=2e-5)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    copies=st.integers(1, 3),
    ends=st.frozensets(st.integers(0, 511), min_size=1, max_size=200),
    seed=st.integers(0, 99),
)
def test_rows_that_end_and_leave_do_not_change_the_others(
    chat_policy: Policy, lengths: list[int], copies: int, ends: frozenset[int], seed: int
) -> None:
    prompts = [[(7 * place + 3) % 512 for place in range(length)] for length in lengths]
    completions = draw(chat_policy, prompts, copies=copies, end_tokens=ends, seed=seed)
    for row, completion in enumerate(completions):
        *before, last = completion.tokens
        assert not ends.intersection(before)
        assert completion.truncated == (last not in ends)
        assert len(completion.tokens) == 12 or not completion.truncated
        expected = logprobs_of(chat_policy, prompts[row // copies], completion.tokens, 1.0)
        assert completion.logprobs == pytest.approx(expected, abs=2e-5)


def test_each_completion_is_told_once_when_it_ends(chat_policy: Policy) -> None:
    told: list[tuple[int, Completion]] = []
    completions = sample(
        chat_policy.model,
        PROMPTS,
        max_new_tokens=[3, 9, 1],
        end_tokens=NEVER,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
        ended=lambda row, completion: told.append((row, completion)),
    )
    assert [row for row, _ in told] == [2, 0, 1]
    assert [len(completion.tokens) for completion in completions] == [3, 9, 1]
    assert all(completions[row] == completion for row, completion in told)


def test_tokens_are_drawn_as_often_as_they_are_likely(chat_policy: Policy) -> None:
    copies = 4000
    drawn = [completion.tokens[0] for completion in draw(chat_policy, [[5, 6]], limit=1, copies=copies)]
    with torch.no_grad():
        likely = chat_policy.model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    likeliest = likely.topk(8).indices.tolist()
    for token in likeliest:
        share = likely[token].item()
        assert abs(drawn.count(token) / copies - share) < 5 * math.sqrt(share * (1 - share) / copies)


def test_entropy_is_that_of_the_distribution(chat_policy: Policy) -> None:
    (completion,) = draw(chat_policy, [[5, 6]], limit=1, temperature=0.5)
    with torch.no_grad():
        logits = chat_policy.model(input_ids=torch.tensor([[5, 6]])).logits[0, -1]
    assert completion.entropies[0] == pytest.approx(
        torch.distributions.Categorical(logits=logits / 0.5).entropy().item(), abs=1e-4
    )


def test_greedy_takes_the_likeliest_as_generate_does(chat_policy: Policy) -> None:
    (completion,) = draw(chat_policy, [PROMPTS[2]], temperature=0.0)
    with torch.no_grad():
        generated = chat_policy.model.generate(
            torch.tensor([PROMPTS[2]]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    assert list(completion.tokens) == generated[0, len(PROMPTS[2]) :].tolist()


def test_the_same_generator_gives_the_same_bits(chat_policy: Policy) -> None:
    assert draw(chat_policy, copies=4, seed=3) == draw(chat_policy, copies=4, seed=3)
    assert draw(chat_policy, copies=4, seed=3) != draw(chat_policy, copies=4, seed=4)


def test_a_token_that_is_impossible_is_never_drawn_and_has_finite_entropy(chat_policy: Policy) -> None:
    class Certain:
        """The next token is the last one plus one, and nothing else is possible."""

        device = torch.device("cpu")
        config = chat_policy.model.config

        def __call__(self, input_ids: torch.Tensor, **_: object) -> object:
            logits = torch.full((*input_ids.shape, 16), -torch.inf)
            logits.scatter_(-1, (input_ids + 1)[..., None] % 16, 0.0)
            return type("Output", (), {"logits": logits})

    (completion,) = sample(
        Certain(),
        [[2, 3]],
        max_new_tokens=[5],
        end_tokens={7},
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert completion.tokens == (4, 5, 6, 7)
    assert completion.logprobs == completion.entropies == (0.0,) * 4
    assert not completion.truncated


def test_an_end_token_at_the_limit_is_an_end(chat_policy: Policy) -> None:
    (free,) = draw(chat_policy, [[5, 6]], limit=3)
    (ended,) = draw(chat_policy, [[5, 6]], limit=3, end_tokens=frozenset({free.tokens[2]}) - set(free.tokens[:2]))
    assert ended.tokens == free.tokens
    assert not ended.truncated
    assert free.truncated


def test_rows_that_have_ended_leave_the_batch(chat_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = chat_policy.model.forward

    def counted(*, input_ids: torch.Tensor, **options: object) -> object:
        rows.append(len(input_ids))
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(chat_policy.model, "forward", counted)
    sample(
        chat_policy.model,
        [[1, 2], [3, 4], [5, 6], [7, 8]],
        max_new_tokens=[1, 2, 3, 4],
        end_tokens=NEVER,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert rows == [4, 3, 2, 1]
