"""From a folder to a model that reads scores right: what is wrong with a checkpoint shows here, as ConfigError.

Config and tokenizer are read when a judge is made, the weights when it is first asked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from judges.transformers_model import TransformersModel
from ruler.errors import ConfigError, JudgeUnavailable, describe

_DTYPES = ("float32", "bfloat16", "float16")
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.2}
"""How far a batched reading may be from a plain one, relative to the spread of the logits: rounding, and no more."""


def read_config(name: str, folder: Path) -> Any:
    """The model's config.

    Raises:
        ConfigError: it cannot be read, or is not that of a causal language model.
    """
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ConfigError(f"{name}: its config cannot be read: {_one_line(error)}") from error
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    kinds = getattr(config, "architectures", None) or [causal.get(config.model_type, config.model_type)]
    if config.is_encoder_decoder or not set(kinds) & set(causal.values()):
        raise ConfigError(f"{name}: expected a causal language model, got {', '.join(kinds)}")
    return config


def read_tokenizer(name: str, folder: Path) -> Any:
    """The model's tokenizer.

    Raises:
        ConfigError: it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ConfigError(f"{name}: its tokenizer cannot be read: {_one_line(error)}") from error


def window(name: str, config: Any, given: int | None) -> int | None:
    """The context in tokens: as given, else the config's, else None.

    Raises:
        ConfigError: more is given than the model has positions for.
    """
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if given is not None and limit is not None and given > limit:
        raise ConfigError(f"{name}: context_tokens: {given:,} is more than the model's {limit:,}")
    return given or limit


def choose_device(name: str, given: str | None) -> str:
    """The device: as given, else cuda where there is one, else cpu.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if given is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=given)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"{name}: device: cannot use {given!r}: {_one_line(error)}") from error
    return given


def choose_dtype(name: str, given: str | None, *, config: Any, device: str) -> str:
    """The number format: as given, else the checkpoint's own on cuda, else float32.

    Raises:
        ConfigError: it is none of float32, bfloat16 and float16.
    """
    if given is None:
        own = str(config.get_text_config(decoder=True).dtype or config.dtype).removeprefix("torch.")
        return own if device.startswith("cuda") and own in _DTYPES else "float32"
    if given not in _DTYPES:
        raise ConfigError(f"{name}: dtype: expected one of {', '.join(_DTYPES)}, got {given!r}")
    return given


def load_weights(name: str, folder: Path, *, device: str, dtype: str, max_batch_tokens: int) -> TransformersModel:
    """The model in the folder, checked to read alike in a batch and alone.

    Raises:
        ConfigError: the weights cannot be loaded, some are missing, or the check fails: the model is not causal, or one
            that transformers cannot continue from a cache.
        JudgeUnavailable: out of memory.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    showed_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        model = model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise JudgeUnavailable(f"{name}: out of memory while loading: {_one_line(error)}") from error
    except Exception as error:
        raise ConfigError(f"{name}: cannot be loaded: {_one_line(error)}") from error
    finally:
        if showed_progress:
            logging.enable_progress_bar()
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if missing:
        # Transformers would go on with random numbers.
        raise ConfigError(f"{name}: the checkpoint lacks {len(missing)} weights, such as {missing[0]}")
    loaded = TransformersModel(model, max_batch_tokens=max_batch_tokens)
    unfit = f"{name}: it is not causal, or transformers cannot continue it from a cache"
    try:
        with torch.inference_mode():
            differences = _differences(model, loaded)
    except torch.OutOfMemoryError as error:
        raise JudgeUnavailable(f"{name}: out of memory at the first reading: {_one_line(error)}") from error
    except Exception as error:
        raise ConfigError(f"{unfit}: {_one_line(error)}") from error
    if not all(map(math.isfinite, differences)):
        raise ConfigError(f"{name}: its logits are not finite as {dtype}")
    if max(differences) > _TOLERANCE[dtype]:
        raise ConfigError(f"{unfit}: it reads differently in a batch and alone, relatively by {max(differences):.2g}")
    return loaded


def _differences(model: Any, loaded: TransformersModel) -> list[float]:
    """How far cached, padded readings of two texts are from plain ones, relative to the spread of the logits."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    long, short = ([(start + 37 * place) % vocabulary for place in range(8)] for start in (11, 23))
    # The plain readings see whole texts: a model that looks ahead gives itself away.
    long_plain, short_plain = (model(torch.tensor([text], device=model.device)).logits[0] for text in (long, short))
    prefix, past = loaded.forward([long[:5], short[:3]])
    one, _ = loaded.forward([long[5:7]] * 2, past.rows([0, 0]))
    other, _ = loaded.forward([short[3:5]], past.rows([1]))
    pairs = [
        (prefix[0], long_plain[4]),
        (prefix[1], short_plain[2]),
        (one[1], long_plain[6]),
        (other[0], short_plain[4]),
    ]
    return [float((found - due).float().norm() / (due - due.mean()).float().norm()) for found, due in pairs]


def _one_line(error: Exception) -> str:
    return " ".join(describe(error).split())[:300]
