from __future__ import annotations

import contextlib
import copy
import doctest
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import trainer.update  # noqa: E402
from ruler.errors import ConfigError  # noqa: E402
from trainer.episodes import Episode  # noqa: E402
from trainer.losses import LossSettings  # noqa: E402
from trainer.update import Row, UpdateSettings, UpdateStatistics, collate, split_by_length, update  # noqa: E402

VOCABULARY = 13
TEMPERATURE = 0.7


@dataclass
class Actor:
    """What `update` needs of a policy."""

    model: Any
    dtype: Any = None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=self.dtype) if self.dtype else contextlib.nullcontext()


def make_model(seed: int = 0) -> Any:
    """A tiny random policy in float64: what differs in more than rounding is an error."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config).double().eval()


def make_episode(tokens: Sequence[int], sampled: Sequence[bool], logprobs: Sequence[float]) -> Episode:
    return Episode(
        tokens=tuple(tokens),
        sampled=tuple(sampled),
        logprobs=tuple(logprob if chosen else 0.0 for logprob, chosen in zip(logprobs, sampled, strict=True)),
        entropies=(0.0,) * len(tokens),
        truncated=False,
    )


def logprobs_of(model: Any, tokens: Sequence[int]) -> Any:
    """Of each token after those before it, (T,), with a gradient; 0 for the first. One episode alone, no padding."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0] / TEMPERATURE
    later = logits[:-1].log_softmax(dim=1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    return torch.cat([torch.zeros(1, dtype=torch.float64), later])


def draw_episodes(model: Any, seed: int, *, num_episodes: int = 6, noise: float = 0.4) -> list[Episode]:
    """Prompts, turns and tool results of different lengths; recorded as if another policy had sampled them."""
    rng = random.Random(seed)
    episodes = []
    for _ in range(num_episodes):
        sampled = [False] * rng.randint(1, 6)
        for _ in range(rng.randint(1, 3)):
            sampled += [True] * rng.randint(1, 4) + [False] * rng.randint(0, 3)
        tokens = [rng.randrange(VOCABULARY) for _ in sampled]
        with torch.no_grad():
            logprobs = [logprob + rng.gauss(0, noise) for logprob in logprobs_of(model, tokens).tolist()]
        episodes.append(make_episode(tokens, sampled, logprobs))
    return episodes


ADVANTAGES = [1.0, -1.0, 0.0, 0.5, -2.0, 0.0]


def make_settings(**changes: Any) -> UpdateSettings:
    """Changes of the loss and of the rest by their names."""
    in_loss = {name: changes.pop(name) for name in list(changes) if name in LossSettings.__slots__}
    loss = LossSettings(**{"max_completion_tokens": 20, "epsilon": 0.1, "epsilon_high": 0.2} | in_loss)
    return UpdateSettings(**{"loss": loss, "temperature": TEMPERATURE, "max_grad_norm": math.inf} | changes)


def gradient_of(
    model: Any, episodes: Sequence[Episode], advantages: Sequence[float], settings: UpdateSettings, **more: Any
) -> tuple[Any, UpdateStatistics]:
    """One step of plain descent at rate 1 is the gradient, all parameters in one vector."""
    actor = Actor(copy.deepcopy(model))
    before = vector(actor.model)
    statistics = update(
        actor, torch.optim.SGD(actor.model.parameters(), lr=1.0), episodes, advantages, settings, **more
    )
    return before - vector(actor.model), statistics


def vector(model: Any) -> Any:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def adam(model: Any, lr: float = 1e-2) -> Any:
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


@pytest.fixture(scope="module")
def reference() -> Any:
    return make_model(seed=1)


@pytest.fixture(scope="module")
def episodes(model: Any) -> list[Episode]:
    return draw_episodes(model, seed=0)


@contextlib.contextmanager
def watched(module: Any) -> Iterator[list[Any]]:
    """What the module returns, each time it is called."""
    outputs: list[Any] = []
    hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    yield outputs
    hook.remove()


def test_collate_example() -> None:
    assert doctest.testmod(trainer.update) == (0, 9)


def test_gradient_and_statistics_are_those_of_a_loop_over_episodes(model: Any, episodes: list[Episode]) -> None:
    """`dapo` in plain words: no padding, no micro-batches, nothing left out."""
    total = sum(episode.num_sampled for episode in episodes)
    expected = torch.zeros((), dtype=torch.float64)
    ratios, num_low, num_high = [], 0, 0
    net = copy.deepcopy(model)
    for episode, advantage in zip(episodes, ADVANTAGES, strict=True):
        logprobs = logprobs_of(net, episode.tokens)
        for place, chosen in enumerate(episode.sampled):
            if not chosen:
                continue
            ratio = (logprobs[place] - torch.tensor(episode.logprobs[place])).exp()
            expected = expected - torch.min(ratio * advantage, ratio.clamp(0.9, 1.2) * advantage) / total
            if advantage:
                ratios.append(ratio.item())
            num_low += advantage < 0 and ratio.item() < 0.9
            num_high += advantage > 0 and ratio.item() > 1.2
    expected.backward()
    assert min(num_low, num_high) > 0  # else the example shows nothing
    expected_gradient = torch.cat([parameter.grad.flatten() for parameter in net.parameters()])

    gradient, statistics = gradient_of(model, episodes, ADVANTAGES, make_settings(micro_batch_tokens=40))

    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    assert statistics == UpdateStatistics(
        loss=pytest.approx(expected.item(), rel=1e-6),
        grad_norm=pytest.approx(expected_gradient.norm().item(), rel=1e-6),
        clip_share_low=pytest.approx(num_low / total),
        clip_share_high=pytest.approx(num_high / total),
        mean_ratio=pytest.approx(math.fsum(ratios) / len(ratios), rel=1e-6),
        kl=None,
        num_tokens=total,
        num_steps=1,
    )


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
@given(micro_batch_tokens=st.integers(1, 150), seed=st.integers(0, 10**6))
@settings(max_examples=8)
def test_size_of_micro_batches_does_not_change_the_gradient(
    model: Any, reference: Any, loss_type: str, beta: float, micro_batch_tokens: int, seed: int
) -> None:
    episodes = draw_episodes(model, seed)
    more = {"reference": reference} if beta else {}
    arm = {"loss_type": loss_type, "beta": beta}
    expected, of_whole = gradient_of(
        model, episodes, ADVANTAGES, make_settings(**arm, micro_batch_tokens=10**6), **more
    )

    gradient, statistics = gradient_of(
        model, episodes, ADVANTAGES, make_settings(**arm, micro_batch_tokens=micro_batch_tokens), **more
    )

    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert statistics == replace(
        of_whole,
        **{
            name: pytest.approx(getattr(of_whole, name), rel=1e-9)
            for name in ("loss", "grad_norm", "mean_ratio", "kl")
            if getattr(of_whole, name) is not None
        },
    )


def test_episodes_without_advantage_are_not_read_and_change_nothing(
    model: Any, reference: Any, episodes: list[Episode]
) -> None:
    actor = Actor(copy.deepcopy(model))
    with watched(actor.model.model) as outputs:
        update(actor, torch.optim.SGD(actor.model.parameters(), lr=0.0), episodes, ADVANTAGES, make_settings())
    assert sum(len(output.last_hidden_state) for output in outputs) == 4

    # A divergence of no weight makes it read all of them.
    read, with_all = gradient_of(model, episodes, ADVANTAGES, make_settings(beta=1e-30), reference=reference)
    skipped, statistics = gradient_of(model, episodes, ADVANTAGES, make_settings())
    torch.testing.assert_close(skipped, read, rtol=1e-9, atol=1e-12)
    assert statistics.loss == pytest.approx(with_all.loss, rel=1e-9)
    assert statistics.clip_share_low == with_all.clip_share_low > 0
    assert statistics.clip_share_high == with_all.clip_share_high > 0
    assert statistics.num_tokens == with_all.num_tokens == sum(episode.num_sampled for episode in episodes)


def test_tokens_that_no_sampled_one_follows_have_no_influence(model: Any, episodes: list[Episode]) -> None:
    """What a tool says at the very end, and whatever is recorded for tokens that were not sampled."""
    changed = []
    for episode in episodes:
        end = len(episode.tokens) - episode.sampled[::-1].index(True)
        changed.append(
            replace(
                episode,
                tokens=(*episode.tokens[:end], 1, 2, 3),
                sampled=(*episode.sampled[:end], False, False, False),
                logprobs=(
                    *(
                        logprob if chosen else 1e9
                        for logprob, chosen in zip(episode.logprobs[:end], episode.sampled, strict=False)
                    ),
                    *(-1e9, -math.inf, math.nan),
                ),
            )
        )
    expected, of_plain = gradient_of(model, episodes, ADVANTAGES, make_settings())
    gradient, statistics = gradient_of(model, changed, ADVANTAGES, make_settings())
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert statistics.loss == pytest.approx(of_plain.loss, rel=1e-9)


def test_statistics_of_the_divergence(model: Any, reference: Any, episodes: list[Episode]) -> None:
    kl = []
    with torch.no_grad():
        for episode in episodes:
            policy, other = logprobs_of(model, episode.tokens), logprobs_of(reference, episode.tokens)
            ratios = (policy - torch.tensor(episode.logprobs)).exp()
            estimates = ratios * ((other - policy).exp() - (other - policy) - 1)
            kl += estimates[torch.tensor(episode.sampled)].tolist()
    _, statistics = gradient_of(model, episodes, ADVANTAGES, make_settings(beta=0.1), reference=reference)
    assert statistics.kl == pytest.approx(math.fsum(kl) / len(kl), rel=1e-6)
    _, of_itself = gradient_of(model, episodes, ADVANTAGES, make_settings(beta=0.1), reference=model)
    assert of_itself.kl == 0.0


def test_reference_reads_a_batch_once(model: Any, reference: Any, episodes: list[Episode]) -> None:
    actor = Actor(copy.deepcopy(model))
    settings = make_settings(beta=0.1, num_iterations=3)
    with watched(reference) as of_reference, watched(actor.model) as of_policy:
        update(actor, adam(actor.model), episodes, ADVANTAGES, settings, reference=reference)
    assert (len(of_reference), len(of_policy)) == (1, 3)


def test_iterations_are_steps_against_the_log_probabilities_that_were_recorded(model: Any) -> None:
    episodes = draw_episodes(model, seed=1, noise=0.0)  # sampled by this very policy
    at_once, one_by_one = (Actor(copy.deepcopy(model)) for _ in range(2))
    optimisers = [torch.optim.SGD(actor.model.parameters(), lr=0.01) for actor in (at_once, one_by_one)]

    statistics = update(at_once, optimisers[0], episodes, ADVANTAGES, make_settings(num_iterations=3))
    single = [update(one_by_one, optimisers[1], episodes, ADVANTAGES, make_settings()) for _ in range(3)]

    assert torch.equal(vector(at_once.model), vector(one_by_one.model))
    assert single[0].mean_ratio == pytest.approx(1.0, abs=1e-6)
    assert single[0].clip_share_low == single[0].clip_share_high == 0.0
    for name in ("loss", "grad_norm", "mean_ratio", "clip_share_low", "clip_share_high"):
        assert getattr(statistics, name) == pytest.approx(sum(getattr(each, name) for each in single) / 3)
    assert abs(single[2].mean_ratio - 1) > 0.05
    assert min(single[2].clip_share_low, single[2].clip_share_high) > 0
    assert single[2].loss < single[1].loss < single[0].loss
    assert statistics.num_steps == 3


def test_equal_runs_give_bitwise_equal_weights(model: Any, episodes: list[Episode]) -> None:
    def run() -> Any:
        actor = Actor(copy.deepcopy(model).float())
        optimiser = adam(actor.model)
        for _ in range(2):
            update(actor, optimiser, episodes, ADVANTAGES, make_settings(num_iterations=2, micro_batch_tokens=30))
        return vector(actor.model)

    first = run()
    assert torch.equal(first, run())
    assert not torch.equal(first, vector(model).float())


@pytest.mark.parametrize("count", [0, 6])
def test_batch_with_nothing_to_learn_makes_no_step(model: Any, episodes: list[Episode], count: int) -> None:
    actor = Actor(copy.deepcopy(model))
    optimiser = adam(actor.model)
    update(actor, optimiser, episodes, ADVANTAGES, make_settings())  # there is momentum now
    before, state = vector(actor.model), copy.deepcopy(optimiser.state_dict())

    statistics = update(actor, optimiser, episodes[:count], [0.0] * count, make_settings(num_iterations=2))

    assert torch.equal(vector(actor.model), before)
    torch.testing.assert_close(optimiser.state_dict(), state, rtol=0, atol=0)
    assert statistics == UpdateStatistics(
        loss=None,
        grad_norm=None,
        clip_share_low=None,
        clip_share_high=None,
        mean_ratio=None,
        kl=None,
        num_tokens=sum(episode.num_sampled for episode in episodes[:count]),
        num_steps=0,
    )


def test_divergence_pulls_without_any_advantage(model: Any, reference: Any, episodes: list[Episode]) -> None:
    gradient, statistics = gradient_of(model, episodes, [0.0] * 6, make_settings(beta=0.1), reference=reference)
    assert gradient.norm() > 1e-3
    assert statistics.num_steps == 1


def test_gradient_is_shortened_to_its_limit(model: Any, episodes: list[Episode]) -> None:
    expected, free = gradient_of(model, episodes, ADVANTAGES, make_settings())
    gradient, statistics = gradient_of(model, episodes, ADVANTAGES, make_settings(max_grad_norm=0.01))
    assert 0.01 < statistics.grad_norm == free.grad_norm == pytest.approx(expected.norm().item())
    torch.testing.assert_close(gradient, expected * (0.01 / expected.norm()), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("what", ["advantage", "recorded", "gradient"])
def test_no_step_with_what_is_not_finite(model: Any, episodes: list[Episode], what: str) -> None:
    actor = Actor(copy.deepcopy(model))
    advantages, batch = list(ADVANTAGES), list(episodes)
    loss, norm = "nan", "nan"
    if what == "advantage":
        advantages[0] = math.nan
    if what == "recorded":  # as if the policy could not have said it, which it then should do even less
        batch[1] = make_episode(batch[1].tokens, batch[1].sampled, [-1e4] * len(batch[1].tokens))
        loss = "inf"
    if what == "gradient":
        actor.model.lm_head.weight.register_hook(lambda gradient: gradient * math.nan)
        loss = r"-?\d\.\d+"
    before = vector(actor.model)

    with pytest.raises(FloatingPointError, match=f"^loss {loss}, length of the gradient {norm}: no step was made"):
        update(actor, adam(actor.model), batch, advantages, make_settings())

    assert torch.equal(vector(actor.model), before)
    assert all(parameter.grad is None for parameter in actor.model.parameters())


def test_no_gradient_is_left_behind_and_none_is_taken_over(model: Any, episodes: list[Episode]) -> None:
    expected, _ = gradient_of(model, episodes, ADVANTAGES, make_settings())
    actor = Actor(copy.deepcopy(model))
    for parameter in actor.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    update(actor, torch.optim.SGD(actor.model.parameters(), lr=1.0), episodes, ADVANTAGES, make_settings())
    torch.testing.assert_close(vector(model) - vector(actor.model), expected, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in actor.model.parameters())


def test_logits_only_where_they_are_wanted(model: Any, episodes: list[Episode]) -> None:
    prompt = [False] * 9
    long = [make_episode([1] * 12, [*prompt, True, False, True], [-1.0] * 12) for _ in range(2)]
    with watched(actor_model := copy.deepcopy(model)) as outputs:
        update(Actor(actor_model), adam(actor_model), long, [1.0, -1.0], make_settings())
    assert [tuple(output.logits.shape) for output in outputs] == [(2, 3, VOCABULARY)]


def test_gradient_checkpointing_works_and_changes_nothing(model: Any, episodes: list[Episode]) -> None:
    expected, of_plain = gradient_of(model, episodes, ADVANTAGES, make_settings())
    saving = copy.deepcopy(model)
    saving.gradient_checkpointing_enable()
    runs: list[bool] = []
    saving.model.layers[0].mlp.register_forward_pre_hook(lambda layer, inputs: runs.append(layer.training))
    actor = Actor(saving)

    statistics = update(actor, torch.optim.SGD(saving.parameters(), lr=1.0), episodes, ADVANTAGES, make_settings())

    assert runs == [True] * 2  # once on the way there, once on the way back
    torch.testing.assert_close(vector(model) - vector(saving), expected, rtol=1e-9, atol=1e-12)
    assert statistics.loss == pytest.approx(of_plain.loss, rel=1e-12)
    assert not saving.training


def test_dropout_stays_off(model: Any, episodes: list[Episode]) -> None:
    expected, _ = gradient_of(model, episodes, ADVANTAGES, make_settings())
    dropping = copy.deepcopy(model).train()
    for layer in dropping.model.layers:
        layer.self_attn.attention_dropout = 0.5
    gradient, _ = gradient_of(dropping, episodes, ADVANTAGES, make_settings())
    assert torch.equal(gradient, expected)


def test_forward_passes_are_made_in_the_policys_precision(model: Any, episodes: list[Episode]) -> None:
    plain = copy.deepcopy(model).float()
    losses = []
    for dtype in (None, torch.bfloat16):
        actor = Actor(copy.deepcopy(plain), dtype)
        with watched(actor.model) as outputs:
            statistics = update(actor, adam(actor.model), episodes, ADVANTAGES, make_settings())
        assert outputs[0].logits.dtype == (dtype or torch.float32)
        assert next(actor.model.parameters()).dtype == torch.float32
        losses.append(statistics.loss)
    assert losses[0] != losses[1] == pytest.approx(losses[0], abs=0.05)


@given(
    lengths=st.lists(st.integers(2, 30), max_size=20),
    micro_batch_tokens=st.integers(1, 100),
)
def test_rows_are_split_by_length(lengths: list[int], micro_batch_tokens: int) -> None:
    rows = [
        Row(make_episode([0] * length, [False] * (length - 1) + [True], [0.0] * length), float(place), 1.0)
        for place, length in enumerate(lengths)
    ]
    parts = split_by_length(rows, micro_batch_tokens)

    flat = [row for part in parts for row in part]
    assert flat == sorted(rows, key=lambda row: (-len(row.episode.tokens), row.advantage))
    for part in parts:
        assert len(part) == 1 or len(part) * len(part[0].episode.tokens) <= micro_batch_tokens
    for part in parts[:-1]:  # none could have taken one row more
        assert (len(part) + 1) * len(part[0].episode.tokens) > micro_batch_tokens


def test_arguments_that_do_not_fit(model: Any, reference: Any, episodes: list[Episode]) -> None:
    actor = Actor(model)
    optimiser = adam(model)
    with pytest.raises(ConfigError, match=r"^reference: beta 0.1 needs a model, got None"):
        update(actor, optimiser, episodes, ADVANTAGES, make_settings(beta=0.1))
    with pytest.raises(ConfigError, match=r"^reference: beta 0.0 needs none, got "):
        update(actor, optimiser, episodes, ADVANTAGES, make_settings(), reference=reference)
    with pytest.raises(ConfigError, match=r"^advantages: expected one for each of 6 episodes, got 5"):
        update(actor, optimiser, episodes, ADVANTAGES[:5], make_settings())
    with pytest.raises(ConfigError, match=r"first token is sampled"):
        collate([Row(make_episode([1, 2], [True, True], [-1.0, -1.0]), 1.0, 1.0)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected a number > 0, got 0.0"),
        ({"temperature": math.inf}, "temperature: expected a finite number, got inf"),
        ({"max_grad_norm": math.nan}, "max_grad_norm: expected a number > 0, got nan"),
        ({"num_iterations": 0}, "num_iterations: expected a whole number >= 1, got 0"),
        ({"micro_batch_tokens": 1.5}, "micro_batch_tokens: expected a whole number >= 1, got 1.5"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_settings(**changes)
