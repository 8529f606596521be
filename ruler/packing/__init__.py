"""The group -> one prompt."""

from ruler.packing.group import PackedGroup, PackedPrompt, PackedRollout, pack
from ruler.packing.layout import PROMPT_VERSION, PromptOptions
from ruler.packing.shared_text import restore

__all__ = ["PROMPT_VERSION", "PackedGroup", "PackedPrompt", "PackedRollout", "PromptOptions", "pack", "restore"]
