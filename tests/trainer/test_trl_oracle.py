"""Our loss against that of the real GRPOTrainer: the same batch, the same value, the same gradient of every weight."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

from tests.trainer.test_update import (  # noqa: E402
    ADVANTAGES,
    TEMPERATURE,
    VOCABULARY,
    draw_episodes,
    gradient_of,
    logprobs_of,
    make_model,
    make_settings,
)
from trainer.episodes import Episode  # noqa: E402

pytestmark = pytest.mark.slow

MAX_COMPLETION_TOKENS = 20
ARMS = list(product(("dapo", "grpo", "dr_grpo"), ("token", "sequence"), (0.0, 0.1), (None, 0.3)))


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


@pytest.fixture(scope="module")
def reference() -> Any:
    return make_model(seed=1)


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's own trainer around the same policy; settings of the loss are set on it per test."""
    with warnings.catch_warnings():
        # torch.jit, which a dependency of TRL still uses.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=DeprecationWarning)
        from trl import GRPOConfig, GRPOTrainer

        return make_trainer(GRPOConfig, GRPOTrainer, tmp_path_factory.mktemp("trl"))


def make_trainer(config_class: Any, trainer_class: Any, folder: Path) -> Any:
    from datasets import Dataset
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({f"w{token}": token for token in range(VOCABULARY)}, unk_token="w0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w0", pad_token="w0", eos_token="w1"
    )
    config = config_class(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        temperature=TEMPERATURE,
        max_completion_length=MAX_COMPLETION_TOKENS,
        per_device_train_batch_size=len(ADVANTAGES),
        num_generations=len(ADVANTAGES),
        gradient_checkpointing=False,
    )
    trainer = trainer_class(
        model=make_model(),
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "w2"}]),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1  # set where its training loop begins
    return trainer


def trl_inputs(model: Any, reference: Any, episodes: Sequence[Episode]) -> dict[str, Any]:
    """The batch as TRL lays it out: prompts padded at the left, completions at the right, a mask for tools."""
    first = [episode.sampled.index(True) for episode in episodes]
    prompt_width = max(first)
    width = max(len(episode.tokens) - begin for episode, begin in zip(episodes, first, strict=True))

    def left(rows: Sequence[Sequence[float]], dtype: Any) -> Any:
        return torch.tensor([[0] * (prompt_width - len(row)) + list(row) for row in rows], dtype=dtype)

    def right(rows: Sequence[Sequence[float]], dtype: Any = torch.float64) -> Any:
        return torch.tensor([list(row) + [0] * (width - len(row)) for row in rows], dtype=dtype)

    def completions(values: Sequence[Sequence[float]]) -> list[Sequence[float]]:
        return [row[begin:] for row, begin in zip(values, first, strict=True)]

    prompts = [episode.tokens[:begin] for episode, begin in zip(episodes, first, strict=True)]
    tokens = completions([episode.tokens for episode in episodes])
    with torch.no_grad():
        of_reference = completions([logprobs_of(reference, episode.tokens).tolist() for episode in episodes])
    return {
        "prompt_ids": left(prompts, torch.long),
        "prompt_mask": left([[1] * len(row) for row in prompts], torch.long),
        "completion_ids": right(tokens, torch.long),
        "completion_mask": right([[1] * len(row) for row in tokens], torch.long),
        "tool_mask": right(completions([episode.sampled for episode in episodes]), torch.long),
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        # In float32, as a trainer keeps them.
        "old_per_token_logps": right(completions([episode.logprobs for episode in episodes]), torch.float32),
        "ref_per_token_logps": right(of_reference),
        "num_items_in_batch": torch.tensor(sum(episode.num_sampled for episode in episodes)),
    }


@pytest.mark.parametrize(("loss_type", "level", "beta", "epsilon_high"), ARMS)
def test_value_and_gradient_are_those_of_trl(
    model: Any, reference: Any, trl_trainer: Any, loss_type: str, level: str, beta: float, epsilon_high: float | None
) -> None:
    episodes = draw_episodes(model, seed=1)
    trl_trainer.loss_type = loss_type
    trl_trainer.importance_sampling_level = level
    trl_trainer.beta = beta
    trl_trainer.epsilon_low = 0.1
    trl_trainer.epsilon_high = epsilon_high or 0.1
    trl_trainer._metrics["train"].clear()
    trl_trainer.model.train()
    trl_trainer.model.zero_grad()

    expected = trl_trainer._compute_loss(trl_trainer.model, trl_inputs(model, reference, episodes))
    expected.backward()
    expected_gradient = torch.cat([parameter.grad.flatten() for parameter in trl_trainer.model.parameters()])

    arm = {"loss_type": loss_type, "importance_sampling_level": level, "beta": beta, "epsilon_high": epsilon_high}
    gradient, statistics = gradient_of(
        model,
        episodes,
        ADVANTAGES,
        make_settings(**arm, max_completion_tokens=MAX_COMPLETION_TOKENS, micro_batch_tokens=10**6),
        **({"reference": reference} if beta else {}),
    )

    assert statistics.loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    assert min(statistics.clip_share_low, statistics.clip_share_high) > 0  # else the example shows nothing
    if level == "token":  # TRL counts clipped sequences, and we their tokens
        metrics = trl_trainer._metrics["train"]
        assert statistics.clip_share_low == pytest.approx(metrics["clip_ratio/low_mean"][0], rel=1e-5)
        assert statistics.clip_share_high == pytest.approx(metrics["clip_ratio/high_mean"][0], rel=1e-5)
    if beta:
        assert statistics.kl == pytest.approx(trl_trainer._metrics["train"]["kl"][0], rel=1e-5)
