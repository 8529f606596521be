"""The tokenizer of the embedded judge as a file."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from judges.embedded_words import PATTERN, UNKNOWN, VOCABULARY


def write_words(folder: Path) -> Path:
    """The tokenizer, as `tokenizers` and transformers read it; returns the file."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
