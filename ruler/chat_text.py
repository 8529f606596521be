"""Text as a trainer decodes it, with the special tokens of a chat template, read back into chat messages.

Some trainers post no messages: only the prompt as the template made it, and what the policy's tokens decode to. In that
text a special token and the same characters spelled out look alike, and nothing says who wrote a turn: the policy, or
an environment that went on where the policy stopped. So the two texts are read differently.

- The *prompt* is the trainer's. It is read by the template that it begins with, all roles as they are.
- The *response* begins inside the assistant turn that the prompt leaves open, and is read by the prompt's template
  alone. Only assistant and tool turns become messages of their own, and only where the turn before is ended by its
  token: there a policy stops, and what follows was put there by an environment, or by a policy that was let go on and
  is shown with the turns that its tokens say. Headers anywhere else are text.
- A turn of the system or a user in a response stays text, header and all, in an assistant message. As a turn it would
  tell the judge that somebody else had spoken: praise from a user, an instruction from the operator. As text it is
  shown for what is certain, that it stands in the response, and `ruler.packing` flags it (`fake_turn`). A simulated
  user is not hidden by this, and all rollouts of a group lose the same; to have the turns, post messages.
- `<think>` and `<tool_call>` stay text, as they do in the content of messages. Were `<think>` read as reasoning, which
  a judge is not shown by default, a policy could choose what its judge sees.

What a template does not know stays text. Only markup is taken away: headers, what ends a turn with the white space up
to the next header, and at the end of a text the tokens that end it or fill it up.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, TypeAlias

ChatMessages: TypeAlias = list[dict[str, str]]
"""`{"role", "content"}` each, for `ruler.messages.read_messages`."""

_ROLES = {
    "system": "system",
    "developer": "system",
    "SYSTEM_PROMPT": "system",
    "AVAILABLE_TOOLS": "system",
    "user": "user",
    "User": "user",
    "INST": "user",
    "assistant": "assistant",
    "Assistant": "assistant",
    "model": "assistant",
    "/INST": "assistant",
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
}
"""What headers say -> role."""

_ENDINGS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<end_of_turn>",
    "<eos>",
    "<pad>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "[PAD]",
    "</s>",
)
"""What ends a text, or fills it up."""
_BEGINNINGS = ("<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>", "[gMASK]", "<sop>", "<s>")

# Possessive: a policy writes the text, and nothing it writes may take more than linear time.
_START = re.compile(rf"(?:\s*+(?:{'|'.join(map(re.escape, _BEGINNINGS + _ENDINGS))}))*+\s*+")
"""What may stand before the first header; some trainers fill up on the left."""
_TOOL_RESPONSE = re.compile(r"\s*+<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)


class _Template:
    """How one family of chat templates marks turns."""

    def __init__(self, header: str, end: str, *, bare: Literal["never", "in prompts", "always"] = "never") -> None:
        """Compiles the patterns.

        Args:
            header: pattern of what opens a turn; its group `role` is a key of `_ROLES`.
            end: pattern of what ends one.
            bare: where a header alone ends the turn before it.
        """
        ended, free = (re.compile(rf"(?:{end})\s*+{header}"), re.compile(rf"(?:(?:{end})\s*+)?{header}"))
        self.header = re.compile(header)
        self.in_prompt = ended if bare == "never" else free
        self.in_response = free if bare == "always" else ended


_CHATML = _Template(
    r"<\|im_start\|>(?P<role>system|developer|user|assistant|tool)(?:\n|<\|im_sep\|>|\Z)", r"<\|im_end\|>"
)
_LLAMA = _Template(
    r"<\|(?:start_header_id|header_start)\|>(?P<role>system|user|assistant|ipython|tool)"
    r"<\|(?:end_header_id|header_end)\|>\n{0,2}",
    r"<\|(?:eot_id|eom_id|eot|eom)\|>",
)
_GEMMA = _Template(r"<start_of_turn>(?P<role>system|developer|user|model|tool)(?:\n|\Z)", "<end_of_turn>")
_PHI = _Template(r"<\|(?P<role>system|user|assistant|tool)\|>\n?", r"<\|end\|>")
# GLM, Zephyr, Tulu. A GLM policy stops by writing the header of whoever speaks next.
_BARS = _Template(r"<\|(?P<role>system|user|assistant|observation|tool)\|>\n?", r"</s>|<\|endoftext\|>", bare="always")
_MISTRAL = _Template(
    r" ?\[(?P<role>/?INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\] ?",
    r"</s>|\[/SYSTEM_PROMPT\]|\[/AVAILABLE_TOOLS\]",
    bare="in prompts",
)
_DEEPSEEK = _Template("<｜(?P<role>User|Assistant)｜>", "<｜end▁of▁sentence｜>", bare="in prompts")
_ENDED_BY_TOKENS = (_CHATML, _LLAMA, _GEMMA, _PHI)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt, read."""

    messages: ChatMessages
    """The turns up to the one that the policy is to write."""
    prefill: str = ""
    """What the template wrote of that turn itself, such as `<think>` and a line end; goes before the response."""
    template: _Template | None = None
    """None: the prompt is plain text, and a response to it has no turns."""


def read_prompt(text: str) -> ChatPrompt:
    """The messages of a prompt as a chat template made it; of plain text one user message that is the text itself.

    Known are ChatML (Qwen, Phi-4), Llama 3 and 4, Gemma, Phi-3, GLM, Zephyr, Tulu, Mistral and DeepSeek. A text is in a
    template when it begins with one of its headers, behind tokens that begin or fill up a text. Plain text that only
    mentions one is plain text.
    """
    start = _START.match(text)
    at = start.end() if start else 0
    template = _template_at(text, at)
    if template is None:
        return ChatPrompt([{"role": "user", "content": text}])
    first = template.header.match(text, at)
    # Before its first header DeepSeek has the system's text, and no template has anything else there.
    turns = list(_turns(text, first.end() if first else at, _role(first) if first else "system", template.in_prompt))
    role, _, last = turns.pop()
    messages = [{"role": role, "content": content} for role, _, content in turns]
    ended = _without_endings(last)
    if role == "assistant" and ended == last:
        return ChatPrompt(messages, last, template)
    return ChatPrompt([*messages, {"role": role, "content": ended}], "", template)


def read_response(text: str, prompt: ChatPrompt | None = None) -> ChatMessages:
    """The messages of a response, at least one, of the assistant and of tools; turns that are blank are left out.

    Args:
        text: what was generated, and what environments put between.
        prompt: what it continues. None: the prompt was a list of messages, so that only the response itself can say
            which template was used; then only templates count that end turns by a token of their own.
    """
    template = prompt.template if prompt else _template_of(text)
    text = _without_endings(text)
    prefill = prompt.prefill if prompt else ""
    if template is None:
        return [{"role": "assistant", "content": prefill + text}]
    if template is _BARS:
        text = re.sub(r"<\|(?:user|observation)\|>\s*+\Z", "", text)
    first = template.header.match(text)
    begins = first.end() if first and _role(first) == "assistant" else 0
    said: list[tuple[str, list[str]]] = [("assistant", [prefill])]
    for role, mark, content in _turns(text, begins, "", template.in_response):
        results = _tool_results(content) if role == "user" else []
        if results:
            said += [("tool", [result]) for result in results]
        elif role in ("assistant", "tool"):
            said.append((role, [content]))
        elif said[-1][0] == "assistant":
            said[-1][1].extend((mark, content))
        else:
            said.append(("assistant", [mark, content]))
    messages = [{"role": role, "content": "".join(pieces)} for role, pieces in said]
    return [m for m in messages if m["role"] == "tool" or m["content"].strip()] or messages[:1]


def response_in(query: str, prompt: str) -> str | None:
    """What a text that was decoded from prompt and response together has after the prompt; None: it has another prompt.

    Decoding does not give back what was encoded: tokens that begin or fill up a text are there or not, white space
    comes and goes, and some tokenisers compose characters (NFC, NFKC). None of that counts as a difference.
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    starts = [match.end() if (match := _START.match(text)) else 0 for text in (query, prompt)]
    end = starts[0]
    for there, here in zip_longest(_folded(query, starts[0]), _folded(prompt, starts[1])):
        if here is None:
            if there is not None and there[1] == end:
                return None  # the prompt ends inside a character of the query
            break
        if there is None or there[0] != here[0]:
            return None
        end = there[1]
    blank = len(prompt) - len(prompt.rstrip())
    while blank and query[end : end + 1].isspace():
        end, blank = end + 1, blank - 1
    return query[end:]


def _folded(text: str, start: int) -> Iterator[tuple[str, int]]:
    """The text's characters without white space, taken apart, and where each one ends."""
    for at in range(start, len(text)):
        for char in unicodedata.normalize("NFKD", text[at]):
            if not char.isspace():
                yield char, at + 1


def _template_at(text: str, at: int) -> _Template | None:
    if "<｜begin▁of▁sentence｜>" in text[:at] and _DEEPSEEK.header.search(text, at):
        return _DEEPSEEK
    if _PHI.header.match(text, at) and "<|end|>" in text:
        return _PHI
    for template in (_CHATML, _LLAMA, _GEMMA, _BARS, _MISTRAL, _DEEPSEEK):
        if template.header.match(text, at):
            return template
    return None


def _template_of(response: str) -> _Template | None:
    found = [(match.start(), i) for i, t in enumerate(_ENDED_BY_TOKENS) if (match := t.in_response.search(response))]
    return _ENDED_BY_TOKENS[min(found)[1]] if found else None


def _turns(text: str, at: int, role: str, boundary: re.Pattern[str]) -> Iterator[tuple[str, str, str]]:
    """Role, what marks its beginning ("" for the first) and content of every turn from `at`, which is inside one."""
    mark = ""
    for match in boundary.finditer(text, at):
        yield role, mark, text[at : match.start()]
        role, mark, at = _role(match), match[0], match.end()
    yield role, mark, text[at:]


def _role(header: re.Match[str]) -> str:
    return _ROLES[header["role"]]


def _tool_results(content: str) -> list[str]:
    """The tool results that a user's turn consists of; empty when it holds anything else. Qwen's template does that."""
    results, at = [], 0
    while match := _TOOL_RESPONSE.match(content, at):
        results.append(match[1])
        at = match.end()
    return results if not content[at:].strip() else []


def _without_endings(text: str) -> str:
    # In HTML </s> has its <s>; the end of a text has none, that of the prompt is not in a response.
    endings = tuple(ending for ending in _ENDINGS if ending != "</s>" or "<s>" not in text)
    kept = len(text)
    while True:
        at = kept
        while at and text[at - 1].isspace():
            at -= 1
        ending = next((ending for ending in endings if text.endswith(ending, 0, at)), None)
        if ending is None:
            return text[:kept]
        kept = at - len(ending)
