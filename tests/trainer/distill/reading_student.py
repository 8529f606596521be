"""A tiny student that can read and knows nothing of scores, and groups to learn from: long rollouts and short ones.

What 0.1 M random weights do not learn in seconds is to look a label up: which of the fences above is the one that is
asked about. Any pretrained model can do that, so this one is pretrained to name the rollout behind a label. Its
tokenizer reads a label as one of four letters, and a rollout with its closing fence as one token; no group has two
rollouts with the same letter.
"""

from __future__ import annotations

import random
import re
import string
from pathlib import Path
from typing import Any

from judges.simulated import Behaviour, SimulatedJudge
from ruler import Group, Ruler
from ruler.packing import PromptOptions
from ruler.packing.layout import system_text
from ruler.records import LabelledGroup
from ruler.rubric import DEFAULT_RUBRIC

LETTERS = {"B": "ABCDEFG", "H": "HIJKLM", "N": "NOPQRS", "T": "TUVWXYZ"}
"""What is read -> the letters that are read so."""
TEXTS = tuple("no " * count + "." for count in range(0, 60, 12))
CONTEXT_TOKENS = 1024
SYSTEM = system_text(DEFAULT_RUBRIC, PromptOptions())
MAX_STEPS = 3000
TEACHER = Behaviour(scale=500, offset=-410)
"""Of a simulated judge: the shortest text has 90 points, the longest 18."""


def make_student(folder: Path) -> Path:
    """Saves a Llama and its tokenizer; returns the folder. Takes some ten seconds."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = (
        "<unk>",
        *string.printable[:95],
        "\n",
        SYSTEM,
        *("<task>\n", "</task>\n", "Reply for "),
        *(f"<rollout {letter}>\n" for letter in LETTERS),
        *(f"{text}\n</rollout {letter}>\n" for letter in LETTERS for text in TEXTS),
        *('{"scores": [{"id": "', '", "score": '),
    )
    words = tuple(dict.fromkeys(map(_read, texts)))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex("(?<=[A-Z])[A-Z]"), ""),
            *(normalizers.Replace(Regex(f"[{alike}]"), letter) for letter, alike in LETTERS.items()),
        ]
    )
    longest_first = sorted(words, key=len, reverse=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    wrapped.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    _learn_to_read(model, wrapped)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def _learn_to_read(model: Any, tokenizer: Any) -> None:
    """Trains the model to name the rollout behind a label, until it nearly always does."""
    import torch

    rng = random.Random(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    right = 0.0
    for step in range(MAX_STEPS):
        rows, due = zip(*(_question(rng, tokenizer) for _ in range(64)), strict=True)
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        last = torch.tensor([len(row) - 1 for row in rows])
        logits = model(tokens).logits[torch.arange(len(rows)), last]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(due))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50)
        optimiser.step()
        right = 0.9 * right + 0.1 * float((logits.argmax(dim=1) == torch.tensor(due)).float().mean())
        if right > 0.99:
            return
    raise AssertionError(f"it reads {right:.2f} of the labels right after {MAX_STEPS} steps")


def _question(rng: random.Random, tokenizer: Any) -> tuple[list[int], int]:
    """A prompt with the beginning of a reply, as tokens, and the token of the rollout that it is about."""
    letters = rng.sample(sorted(LETTERS), rng.randint(2, 4))
    shown = {letter: f"{rng.choice(TEXTS)}\n</rollout {letter}>\n" for letter in letters}
    fences = "".join(f"<rollout {letter}>\n{text}" for letter, text in shown.items())
    asked = rng.choice(letters)
    text = f"<task>\n{rng.randint(0, 2000)}\n</task>\n{fences}Reply for {', '.join(letters)}."
    reply = f'{{"scores": [{{"id": "{asked}", "score": '
    encoded = [tokenizer.encode(part, add_special_tokens=False) for part in (SYSTEM + text + reply, shown[asked])]
    (named,) = encoded[1]
    return encoded[0], named


def groups(count: int, *, size: int = 3, seed: int = 0) -> list[LabelledGroup]:
    """Groups of different texts, with truth: the shorter is better."""
    rng = random.Random(seed)
    packer = Ruler(SimulatedJudge())
    found: list[LabelledGroup] = []
    task = 0
    while len(found) < count:
        task += 1
        texts = rng.sample(TEXTS, size)
        group = Group.of(texts, task=str(task), id=f"group-{task}")
        (prompt,) = packer.pack(group)
        if len({_read(label) for label in prompt.labels}) == size:
            truth = {rollout.id: -float(len(text)) for rollout, text in zip(group.rollouts, texts, strict=True)}
            found.append(LabelledGroup(group, truth))
    return found


def _read(text: str) -> str:
    """The text as the tokenizer has it before it looks words up."""
    text = re.sub("(?<=[A-Z])[A-Z]", "", text)
    for letter, alike in LETTERS.items():
        text = re.sub(f"[{alike}]", letter, text)
    return text
