"""What the judges that run a model in this process share: which model it is, and how a request becomes its tokens.

Neither torch nor transformers is imported here; the tokenizer is handed in.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ruler.errors import ConfigError, JudgeRejected
from ruler.types import ChatMessage

# --- Identity ---

_WEIGHTS = (".safetensors", ".bin")
_OTHERS = (".json", ".jinja", ".model", ".tiktoken", "merges.txt", "vocab.txt")
_OF_TRAINING = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|trainer_state).*|.*_results\.json"
)
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16


def local_name(model: str, folder: Path | None = None) -> str:
    """What names a local model in results and cache keys: `tiny-qwen@3fa9c2d41b7e`, `Qwen/Qwen3-0.6B@91be02c7d5a4`.

    The last folder's name, or the hub id, and 12 hex digits of SHA-256 over the model, tokenizer and config files at
    the top of the folder: names, sizes and content, of weights past 4 MiB 64 evenly spaced pieces of 64 KiB in each
    file. So a checkpoint that a trainer overwrites in place gets another name, while times, the path above, readmes,
    optimizer states and other training records change nothing. An edit of large weights that touches none of the pieces
    is not seen; a training step that moves every weight touches all of them.

    Args:
        model: a folder, or a model id on the Hugging Face hub (see `model_folder`).
        folder: what `model_folder` found before; None: it looks now.

    Raises:
        ConfigError: as `model_folder`, or a file cannot be read.
    """
    folder = folder or model_folder(model)
    digest = hashlib.sha256()
    try:
        for path in sorted(_files(folder)):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            for piece in _pieces(path):
                digest.update(piece)
    except OSError as error:
        raise ConfigError(f"local model {model!r}: cannot be read: {error}") from error
    return f"{_shown_name(model)}@{digest.hexdigest()[:12]}"


def model_folder(model: str) -> Path:
    """The folder that holds the model's files.

    A hub id is resolved as transformers does it: the snapshot of the main branch in the local Hugging Face cache,
    brought up to date where the hub can be reached and HF_HUB_OFFLINE is not set.

    Args:
        model: a folder (absolute, relative, or with ~), or a hub id such as `Qwen/Qwen3-0.6B`. A folder of that name
            wins over a hub id.

    Raises:
        ConfigError: no such folder or hub model, or one without weights of its own, such as a lone adapter.
    """
    given = Path(model).expanduser() if model.strip() else None
    if given is None:
        raise ConfigError("local model: the name is empty")
    if given.is_dir():
        folder = given
    elif given.exists():
        raise ConfigError(f"local model {model!r}: expected a folder with weights, tokenizer and config, got a file")
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) and not model.startswith("."):
        folder = _hub_snapshot(model)
    else:
        raise ConfigError(f"local model {model!r}: no such folder")
    names = {path.name for path in _files(folder)}
    if "adapter_config.json" in names:
        # Transformers would fetch the model under it from wherever the adapter says: its name would not tell which.
        raise ConfigError(f"local model {model!r}: an adapter, not a whole model; merge it into its model first")
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ConfigError(f"local model {model!r}: {folder} holds no weights (*.safetensors or *.bin)")
    return folder


def _shown_name(model: str) -> str:
    folder = Path(model).expanduser()
    return os.path.basename(os.path.abspath(folder)) if folder.is_dir() else model


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        name = path.name
        if name.endswith(_WEIGHTS + _OTHERS) and not _OF_TRAINING.fullmatch(name) and path.is_file():
            yield path


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if not path.name.endswith(_WEIGHTS) or size <= _NUM_SAMPLES * _SAMPLE_BYTES:
            yield file.read()
            return
        for sample in range(_NUM_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * sample // (_NUM_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def _hub_snapshot(model: str) -> Path:
    try:
        from httpx import HTTPError
        from huggingface_hub import snapshot_download
    except ImportError as error:
        fault = f"local model {model!r}: no such folder, and no way to ask the hub ({error})"
        raise ConfigError(f"{fault}: pip install 'ruler-judge[local]'") from error
    folder = Path()
    try:
        # Many repositories hold the weights twice; as in transformers, the older form counts only without the newer.
        for weights in ("model*.safetensors", "pytorch_model*.bin"):
            wanted = [weights, *(f"*{ending}" for ending in _OTHERS)]
            folder = Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=["*/*"]))
            if any(path.name.endswith(_WEIGHTS) for path in folder.iterdir()):
                break
    except (OSError, ValueError, HTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"local model {model!r}: no such folder, and not to be had from the hub: {reason}") from error
    return folder


# --- From a request to tokens ---

_SAME_DAY = datetime(2024, 7, 26)


def prompt_tokens(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[int]:
    """The token ids of a request, up to and with what opens the assistant's reply; what follows is the reply itself.

    With a chat template: that template, thinking switched off where it knows `enable_thinking` (the reply's form is
    forced, there is no room to think), and a fixed date where it shows one (the same request is the same question
    tomorrow). Where it refuses or leaves out a system message, its text goes to the front of the first user message.
    Without a template, after the tokenizer's own beginning-of-text token if it has one:

        system:
        You judge rollouts: …

        user:
        <rollout KQX>
        …

        assistant:

    Special tokens spelt out in a message (`<|im_end|>`) are broken by a space: a rollout cannot end its own message and
    begin another one. Lone surrogates, which no tokenizer takes, become question marks.

    Args:
        tokenizer: as transformers loads it.
        messages: OpenAI chat messages; the content is a string or a list of text parts.

    Raises:
        JudgeRejected: no messages, a part that is not text, or a template that cannot show these messages.
    """
    chat = _chat(messages, _special_tokens(tokenizer))
    if not getattr(tokenizer, "chat_template", None):
        text = "".join(f"{message['role']}:\n{message['content']}\n\n" for message in chat)
        return [*_opening(tokenizer), *text_tokens(tokenizer, f"{text}assistant:\n")]
    try:
        text = _rendered(tokenizer, chat)
        left_out = any(m["role"] == "system" and m["content"].strip() not in text for m in chat)
    except _TemplateFault as fault:
        text, left_out = "", True
        if all(message["role"] != "system" for message in chat):
            raise JudgeRejected(f"the model's chat template refuses the request: {fault}") from fault
    if left_out:
        try:
            text = _rendered(tokenizer, _folded(chat))
        except _TemplateFault as fault:
            raise JudgeRejected(f"the model's chat template refuses the request: {fault}") from fault
    return text_tokens(tokenizer, text)


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text by itself, without the beginning- or end-of-text tokens that a tokenizer may add."""
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))


class _TemplateFault(Exception):
    pass


def _chat(messages: Sequence[ChatMessage], specials: re.Pattern[str] | None) -> list[dict[str, str]]:
    if not messages:
        raise JudgeRejected("the request holds no messages")
    chat = []
    for message in messages:
        content = message.get("content") or ""
        text = content if isinstance(content, str) else "".join(map(_part_text, content))
        text = text.encode("utf-8", "replace").decode()
        if specials:
            text = specials.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        chat.append({"role": str(message["role"]), "content": text})
    return chat


def _part_text(part: Mapping[str, Any]) -> str:
    if part.get("type") != "text":
        raise JudgeRejected(f"this judge reads text alone, and the request holds a part of type {part.get('type')!r}")
    return str(part["text"])


def _special_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    # A token of one character cannot be broken.
    texts = {str(token) for token in added if token.special and len(str(token)) > 1}
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))) if texts else None


def _rendered(tokenizer: Any, chat: list[dict[str, str]]) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            # Two ways in which templates come to the date.
            date_string=_SAME_DAY.strftime("%d %b %Y"),
            strftime_now=_SAME_DAY.strftime,
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise _TemplateFault(" ".join(str(error).split())[:200]) from error
    return str(text)


def _folded(chat: list[dict[str, str]]) -> list[dict[str, str]]:
    """The chat with its system text in front of the first user message's."""
    system = "\n\n".join(message["content"] for message in chat if message["role"] == "system")
    folded = [dict(message) for message in chat if message["role"] != "system"]
    for message in folded:
        if message["role"] == "user":
            message["content"] = f"{system}\n\n{message['content']}"
            return folded
    return [{"role": "user", "content": system}, *folded]


def _opening(tokenizer: Any) -> list[int]:
    begin = getattr(tokenizer, "bos_token_id", None)
    return [begin] if begin is not None and tokenizer.encode("")[:1] == [begin] else []
