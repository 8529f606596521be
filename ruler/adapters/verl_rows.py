"""A row of verl's data as the rollout that it stands for."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from ruler.chat_text import read_prompt, read_response
from ruler.errors import GroupError
from ruler.types import Group, Rollout


def read_row(row: Any, tokenizer: Any, *, response_length: int) -> Group:
    """The rollout as a group of one, by the `uid` of its prompt; `session_id`, where there is one, is the rollout's id.

    Its messages are those that an agent loop left as `messages` in its `extra_fields`. Else the tokens are decoded, and
    read by the chat template of their prompt: the answers of tools stand among them. The task is `raw_prompt`, the
    reference `reward_model.ground_truth`, the metadata `extra_info`.

    Args:
        row: a `DataProtoItem`.
        tokenizer: the policy's.
        response_length: a response of so many tokens was cut off.

    Raises:
        GroupError: `uid` or `raw_prompt` is missing, or something cannot be read.
    """
    fields = row.non_tensor_batch
    for name in ("uid", "raw_prompt"):
        if name not in fields:
            raise GroupError(f"{name}: missing; verl passes it where rewards are computed while rollouts run")
    prompt_ids, response_ids = _token_ids(row)
    messages = (fields.get("tool_extra_fields") or {}).get("messages")
    if messages is None:
        prompt = read_prompt(tokenizer.decode(prompt_ids, skip_special_tokens=False))
        text = tokenizer.decode(response_ids, skip_special_tokens=prompt.template is None)
        messages = read_response(text, prompt)
    cut = len(response_ids) >= response_length
    session = fields.get("session_id")
    rollout = Rollout.of(
        str(uuid4() if session is None else session), messages, finish_reason="length" if cut else None
    )
    return Group.of(
        [rollout],
        task=[dict(message) for message in fields["raw_prompt"]],
        id=str(fields["uid"]),
        reference=without_arrays((fields.get("reward_model") or {}).get("ground_truth")),
        metadata=fields.get("extra_info"),
    )


def without_arrays(value: object) -> object:
    """The value as JSON has it: a data set that was Parquet holds arrays and numbers of numpy."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


def _token_ids(row: Any) -> tuple[Any, Any]:
    prompt_ids, response_ids, mask = (row.batch[name] for name in ("prompts", "responses", "attention_mask"))
    fields = row.non_tensor_batch
    if "response_len" in fields:  # since 0.9: the mask of several rows is padded in another way than these
        return prompt_ids[: fields["prompt_len"]], response_ids[: fields["response_len"]]
    return prompt_ids[mask[: len(prompt_ids)].bool()], response_ids[mask[len(prompt_ids) :].bool()]
