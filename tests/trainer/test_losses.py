from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ruler.errors import ConfigError  # noqa: E402
from trainer.losses import (  # noqa: E402
    LossSettings,
    clipped_objectives,
    importance_ratios,
    kl_estimates,
    loss_sums,
    token_logprobs,
    token_weights,
)

ARMS = [
    pytest.param(
        {"loss_type": loss_type, "importance_sampling_level": level, "beta": beta}, id=f"{loss_type}-{level}-{beta}"
    )
    for loss_type, level, beta in product(("dapo", "grpo", "dr_grpo"), ("token", "sequence"), (0.0, 0.1))
]


def make_settings(**changes: Any) -> LossSettings:
    return LossSettings(**{"max_completion_tokens": 9, "epsilon": 0.1, "epsilon_high": 0.3} | changes)


def draw_batch(seed: int, *, num_episodes: int = 5, num_positions: int = 6) -> dict[str, Any]:
    """Log-probabilities far enough apart that ratios leave the clip range on both sides; some tokens not sampled."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_episodes, num_positions)

    def noise(scale: float) -> Any:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    old = -2 + noise(0.5)
    sampled = torch.rand(shape, generator=generator) < 0.6
    sampled[:, 0] = True
    return {
        "logprobs": (old + noise(0.4)).requires_grad_(),
        "old_logprobs": old,
        "sampled": sampled,
        "advantages": torch.tensor([1.0, -0.5, 0.0, -2.0, 0.25][:num_episodes], dtype=torch.float64),
        "reference_logprobs": old + noise(0.4),
    }


def weights_of(batch: dict[str, Any], loss: LossSettings) -> Any:
    return torch.tensor(token_weights(batch["sampled"].sum(dim=1).tolist(), loss), dtype=torch.float64)


def naive_loss(batch: dict[str, Any], loss: LossSettings) -> Any:
    """One token after the other, as the papers write it."""
    num_episodes = len(batch["advantages"])
    num_tokens = int(batch["sampled"].sum())
    result = torch.zeros((), dtype=torch.float64)
    for row in range(num_episodes):
        places = [place for place, chosen in enumerate(batch["sampled"][row].tolist()) if chosen]
        log_ratios = [batch["logprobs"][row, place] - batch["old_logprobs"][row, place] for place in places]
        advantage = batch["advantages"][row].item()
        losses = []
        for place, log_ratio in zip(places, log_ratios, strict=True):
            if loss.importance_sampling_level == "sequence":
                log_ratio = sum(log_ratios) / len(log_ratios)
            ratio = torch.exp(log_ratio)
            value = -ratio * advantage
            if advantage > 0 and ratio > 1 + loss.upper_epsilon:
                value = torch.tensor(-(1 + loss.upper_epsilon) * advantage)
            if advantage < 0 and ratio < 1 - loss.epsilon:
                value = torch.tensor(-(1 - loss.epsilon) * advantage)
            if loss.beta:
                difference = batch["reference_logprobs"][row, place] - batch["logprobs"][row, place]
                value = value + loss.beta * ratio * (torch.exp(difference) - difference - 1)
            losses.append(value)
        if loss.loss_type == "dapo":
            result = result + sum(losses) / num_tokens
        elif loss.loss_type == "grpo":
            result = result + sum(losses) / len(losses) / num_episodes
        else:
            result = result + sum(losses) / loss.max_completion_tokens / num_episodes
    return result


@pytest.mark.parametrize("arm", ARMS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=8)
def test_loss_is_that_of_a_loop_over_tokens(arm: dict[str, Any], seed: int) -> None:
    loss = make_settings(**arm)
    batch = draw_batch(seed)
    expected = naive_loss(batch, loss)
    (expected_gradient,) = torch.autograd.grad(expected, batch["logprobs"])

    sums = loss_sums(**batch, weights=weights_of(batch, loss), settings=loss)

    torch.testing.assert_close(sums.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(sums.loss, batch["logprobs"])[0], expected_gradient)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_statistics_are_those_of_a_loop_over_tokens(level: Any) -> None:
    loss = make_settings(importance_sampling_level=level, beta=0.1)
    batch = draw_batch(9, num_positions=4)
    ratio_sum = kl_sum = 0.0
    num_low = num_high = 0
    for row, advantage in enumerate(batch["advantages"].tolist()):
        places = torch.nonzero(batch["sampled"][row]).flatten().tolist()
        log_ratios = [(batch["logprobs"] - batch["old_logprobs"])[row, place].item() for place in places]
        for place, own in zip(places, log_ratios, strict=True):
            ratio = math.exp(own if level == "token" else math.fsum(log_ratios) / len(log_ratios))
            difference = (batch["reference_logprobs"] - batch["logprobs"])[row, place].item()
            ratio_sum += ratio
            kl_sum += ratio * (math.exp(difference) - 1 - difference)
            num_low += advantage < 0 and ratio < 0.9
            num_high += advantage > 0 and ratio > 1.3
    assert min(num_low, num_high) > 0  # else the example shows nothing

    sums = loss_sums(**batch, weights=weights_of(batch, loss), settings=loss)

    assert sums.ratio.item() == pytest.approx(ratio_sum)
    assert sums.kl.item() == pytest.approx(kl_sum)
    assert (sums.clipped_low.item(), sums.clipped_high.item()) == (num_low, num_high)
    assert [each.requires_grad for each in sums] == [True, False, False, False, False]


@pytest.mark.parametrize("arm", ARMS)
@given(cut=st.integers(1, 4), seed=st.integers(0, 10**6))
@settings(max_examples=5)
def test_parts_of_a_batch_add_up(arm: dict[str, Any], cut: int, seed: int) -> None:
    loss = make_settings(**arm)
    batch = draw_batch(seed) | {"settings": loss}
    batch["weights"] = weights_of(batch, loss)
    parts = [
        {name: value[rows] if torch.is_tensor(value) else value for name, value in batch.items()}
        for rows in (slice(cut), slice(cut, None))
    ]
    whole, first, second = loss_sums(**batch), loss_sums(**parts[0]), loss_sums(**parts[1])
    for of_whole, of_first, of_second in zip(whole, first, second, strict=True):
        torch.testing.assert_close(of_first + of_second, of_whole)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_what_was_not_sampled_has_no_influence(level: Any) -> None:
    loss = make_settings(importance_sampling_level=level, beta=0.1)
    batch = draw_batch(0)
    weights = weights_of(batch, loss)
    expected = loss_sums(**batch, weights=weights, settings=loss)
    (expected_gradient,) = torch.autograd.grad(expected.loss, batch["logprobs"])
    # Their ratio is infinite, and so is their divergence.
    wild = {"logprobs": -900.0, "old_logprobs": -9000.0, "reference_logprobs": -math.inf}
    changed = batch | {name: batch[name].detach().masked_fill(~batch["sampled"], wild[name]) for name in wild}
    changed["logprobs"].requires_grad_()

    sums = loss_sums(**changed, weights=weights, settings=loss)

    assert [each.item() for each in sums] == [each.item() for each in expected]
    (gradient,) = torch.autograd.grad(sums.loss, changed["logprobs"])
    assert torch.equal(gradient, expected_gradient)
    assert not gradient[~batch["sampled"]].any()


def test_reference_needed_for_the_divergence() -> None:
    batch = draw_batch(0) | {"reference_logprobs": None}
    with pytest.raises(ConfigError, match="reference_logprobs: beta 0.1"):
        loss_sums(**batch, weights=torch.ones(5), settings=make_settings(beta=0.1))


def test_ratio_of_a_sequence_is_the_geometric_mean_of_its_sampled_tokens() -> None:
    log_ratios = torch.tensor([[math.log(2.0), 0.0, math.log(8.0)], [0.0, 0.0, math.log(3.0)]])
    sampled = torch.tensor([[True, False, True], [False, False, True]])
    ratios = importance_ratios(log_ratios, torch.zeros(2, 3), sampled, "sequence")
    torch.testing.assert_close(ratios, torch.tensor([[4.0, 4.0, 4.0], [3.0, 3.0, 3.0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.29, 2.0, 2.58, 2.0),
        (1.31, 2.0, 2.6, 0.0),  # likely enough
        (0.5, 2.0, 1.0, 2.0),  # too unlikely for a good token: still pulled
        (0.91, -2.0, -1.82, -2.0),
        (0.89, -2.0, -1.8, 0.0),  # unlikely enough
        (5.0, -2.0, -10.0, -2.0),  # too likely for a bad token: still pulled
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_clip_stops_only_in_the_direction_of_the_advantage(
    ratio: float, advantage: float, objective: float, slope: float
) -> None:
    ratios = torch.tensor([[ratio]], dtype=torch.float64, requires_grad=True)
    value = clipped_objectives(ratios, torch.tensor([[advantage]], dtype=torch.float64), low=0.9, high=1.3)
    (gradient,) = torch.autograd.grad(value.sum(), ratios)
    assert (value.item(), gradient.item()) == (pytest.approx(objective), pytest.approx(slope))


@given(seed=st.integers(0, 10**6))
def test_mean_of_the_kl_estimates_is_the_divergence(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy, reference = torch.randn(2, 7, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    estimates = kl_estimates(policy, reference)
    assert (estimates >= 0).all()
    torch.testing.assert_close((policy.exp() * estimates).sum(), (policy.exp() * (policy - reference)).sum())


def test_kl_estimate_near_the_reference_keeps_its_digits_in_float32() -> None:
    difference = 1e-4  # exp(d) - 1 - d in float32 would be off by more than its own size
    estimate = kl_estimates(torch.tensor(-difference), torch.tensor(0.0)).item()
    assert estimate == pytest.approx(difference**2 / 2, rel=1e-3)


def test_each_loss_type_weighs_tokens_as_it_should() -> None:
    num_sampled = [1, 3, 4]
    assert token_weights(num_sampled, make_settings(loss_type="dapo")) == [1 / 8] * 3
    assert token_weights(num_sampled, make_settings(loss_type="grpo")) == [1 / 3, 1 / 9, 1 / 12]
    assert token_weights(num_sampled, make_settings(loss_type="dr_grpo")) == [1 / 27] * 3
    assert token_weights([], make_settings()) == []


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("vocabulary", [5, 2**17])  # 2**17: two tokens at a time, so that the last part is smaller
def test_token_logprobs_and_their_gradient(temperature: float, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, vocabulary, generator=generator, dtype=torch.float64).requires_grad_()
    tokens = torch.randint(vocabulary, (3, 3), generator=generator)
    slopes = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    expected = (logits / temperature).log_softmax(dim=2).gather(2, tokens.unsqueeze(2)).squeeze(2)
    (expected_gradient,) = torch.autograd.grad(expected, logits, slopes)

    logprobs = token_logprobs(logits, tokens, temperature)

    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(torch.autograd.grad(logprobs, logits, slopes)[0], expected_gradient)


def test_token_logprobs_of_bfloat16_are_calculated_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 50, 300, generator=generator)).bfloat16().requires_grad_()
    tokens = torch.randint(300, (2, 50), generator=generator)
    exact = logits.detach().double().requires_grad_()
    expected = (exact / 0.7).log_softmax(dim=2).gather(2, tokens.unsqueeze(2)).squeeze(2)

    logprobs = token_logprobs(logits, tokens, 0.7)

    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(logprobs.sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), exact)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2**-8, atol=1e-6)


def test_logits_that_overflow_an_exponential() -> None:
    logits = torch.tensor([[[1000.0, 0.0], [0.0, -1000.0]]], requires_grad=True)
    logprobs = token_logprobs(logits, torch.tensor([[1, 0]]), 1.0)
    assert logprobs.tolist() == [[-1000.0, 0.0]]
    (gradient,) = torch.autograd.grad(logprobs.sum(), logits)
    assert gradient.tolist() == [[[-1.0, 1.0], [0.0, 0.0]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "bnpo"}, "loss_type: expected one of dapo, grpo, dr_grpo, got 'bnpo'"),
        ({"importance_sampling_level": "word"}, "importance_sampling_level: expected one of token, sequence"),
        ({"epsilon": -0.1}, "epsilon: expected a finite number >= 0, got -0.1"),
        ({"epsilon": None, "epsilon_high": 0.2}, "epsilon: .* got None"),
        ({"epsilon_high": math.nan}, "epsilon_high: .* got nan"),
        ({"beta": math.inf}, "beta: .* got inf"),
        ({"beta": True}, "beta: .* got True"),
        ({"max_completion_tokens": 0}, "max_completion_tokens: expected a whole number >= 1, got 0"),
        ({"max_completion_tokens": 9.0}, "max_completion_tokens: .* got 9.0"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_settings(**changes)


def test_upper_epsilon_is_the_lower_one_where_it_is_not_given() -> None:
    assert make_settings(epsilon_high=None).upper_epsilon == 0.1
    assert make_settings(epsilon_high=0.0).upper_epsilon == 0.0
