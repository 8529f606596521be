"""The bound is no less than what tokenizers make of real text, and no more than bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruler.records import LabelledGroup, read_labelled
from ruler.scoring import Ruler
from ruler.token_bound import token_bound
from ruler.tokens import token_counter
from tests.test_poll import slot_judge

SAMPLES = {
    "prose": "The customer asked for a refund, and the agent looked the order up before it answered. " * 5,
    "code": "def area(width: float, height: float) -> float:\n    return width * height  # in m²\n" * 5,
    "json": json.dumps([{"id": f"W{n:07}", "price": 12.5 * n, "open": True} for n in range(30)]),
    "numbers": " ".join(str(n * 7919) for n in range(200)),
    "russian": "Клиент попросил вернуть деньги, и оператор сначала нашёл его заказ. " * 5,
    "chinese": "客户要求退款，客服先查询了订单，然后才回答。" * 5,
    "japanese": "お客様から返金のご依頼があり、担当者はまず注文を確認しました。" * 5,
    "arabic": "طلب العميل استرداد المبلغ، فبحث الموظف عن الطلب أولاً. " * 5,
    "hindi": "ग्राहक ने धनवापसी मांगी, और एजेंट ने पहले ऑर्डर देखा। " * 5,
    "emoji": "🎉👍🏽 done ✅ " * 20,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_bound_covers_a_real_tokenizer_without_doubling_it(name: str) -> None:
    tokenizer, count = token_counter(None)
    assert tokenizer == "cl100k"
    tokens, bound = count(SAMPLES[name]), token_bound(SAMPLES[name])
    assert tokens <= bound <= 2.6 * tokens + 10


@given(st.text(max_size=500))
def test_never_more_than_bytes(text: str) -> None:
    assert 0 <= token_bound(text) <= len(text.encode("utf-8", "surrogatepass"))


@given(st.text(max_size=200), st.text(max_size=200))
def test_more_text_is_not_less(text: str, more: str) -> None:
    assert token_bound(f"{text}\n{more}") >= token_bound(text)


def test_half_characters_and_nothing() -> None:
    assert token_bound("") == 0
    assert 0 < token_bound("\ud800") <= 3


@pytest.mark.slow
def test_bound_covers_a_real_tokenizer_on_real_prompts(data_folder: Path) -> None:
    _, count = token_counter(None)
    ruler = Ruler(slot_judge(lambda text, slot: 0))
    seen = 0
    for path in sorted(data_folder.glob("*.jsonl*")):
        for found in list(read_labelled(str(path)))[::7]:
            assert isinstance(found, LabelledGroup)
            for prompt in ruler.pack(found.group):
                text = "".join(part for _, part in prompt.parts)
                assert count(text) <= token_bound(text)
                seen += 1
    assert seen > 100
