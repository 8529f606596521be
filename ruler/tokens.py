"""Counting tokens where no judge has been asked yet."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from ruler.types import JudgeInfo

# tiktoken looks its file up by the SHA-1 of the address it would fetch it from; LiteLLM ships it under that name.
_CL100K_FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
_BYTES_PER_TOKEN = 4


def token_counter(info: JudgeInfo | None) -> tuple[str, Callable[[str], int]]:
    """(name, function) of the best tokenizer at hand: the judge's own, else cl100k, else an estimate that says so.

    Never uses the network: cl100k is there only where LiteLLM, which bundles its file, is installed.
    """
    if info is not None and info.count_tokens is not None:
        return info.model, info.count_tokens
    folder = _bundled_folder()
    if folder is None:
        return f"estimate, {_BYTES_PER_TOKEN} bytes a token", _estimate
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("cl100k_base")
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
    return "cl100k", lambda text: len(encoding.encode_ordinary(text))


def _bundled_folder() -> Path | None:
    if importlib.util.find_spec("tiktoken") is None:
        return None
    found = importlib.util.find_spec("litellm")
    for package in (found.submodule_search_locations or ()) if found else ():
        folder = Path(package) / "litellm_core_utils" / "tokenizers"
        if (folder / _CL100K_FILE).is_file():
            return folder
    return None


def _estimate(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)
