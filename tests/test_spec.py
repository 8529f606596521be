from __future__ import annotations

import pytest

from ruler.errors import ConfigError
from ruler.spec import Around, Spec
from ruler.types import Sampling


def test_a_spec_is_sorted_by_who_needs_it() -> None:
    spec = Spec.parse(
        "http://h:8000/v1#org/m:7b?temperature=0&timeout=9&images=true&concurrency=3&attempts=2&deadline=7&reasks=1"
    )
    assert spec == Spec(
        kind="litellm",
        model="org/m:7b",
        base_url="http://h:8000/v1",
        sampling=Sampling(temperature=0.0),
        backend={"timeout_seconds": 9.0, "images": True},
        engine={},
        around=Around(
            limits={"concurrency": 3},
            retry={"attempts": 2, "deadline_seconds": 7.0},
            max_reasks=1,
        ),
    )


def test_what_was_not_given_is_left_to_the_layers() -> None:
    spec = Spec.parse("openai/gpt-5-mini")
    assert (spec.backend, spec.around) == ({}, Around({}, {}, 2))
    assert spec.sampling == Sampling()


def test_an_engine_in_this_process() -> None:
    spec = Spec.parse("vllm:/models/q?seed=1&dtype=float32&enforce_eager=true&context_tokens=900")
    assert (spec.kind, spec.model) == ("vllm", "/models/q")
    assert spec.sampling == Sampling(seed=1)
    assert spec.engine == {"dtype": "float32", "enforce_eager": True}
    assert spec.backend == {"context_tokens": 900}


def test_a_small_model_in_this_process() -> None:
    spec = Spec.parse("transformers:org/m?device=cpu&dtype=float32&max_batch_tokens=4096")
    assert (spec.kind, spec.model) == ("transformers", "org/m")
    assert spec.backend == {"device": "cpu", "dtype": "float32", "max_batch_tokens": 4096}


def test_the_seed_of_a_simulated_judge_is_its_own() -> None:
    spec = Spec.parse("simulated?seed=3&noise=0.5&attempts=1")
    assert spec.backend == {"seed": 3, "noise": 0.5}
    assert spec.sampling == Sampling()
    assert spec.around.retry == {"attempts": 1}
    assert Spec.parse("simulated").around.retry == {"attempts": 1}
    assert Spec.parse("simulated?attempts=3").around.retry == {"attempts": 3}


def test_the_small_judge_that_ships_or_one_in_a_folder() -> None:
    for text, model in (("embedded", ""), ("embedded:runs/judge", "runs/judge"), ("embedded:~/a:b", "~/a:b")):
        spec = Spec.parse(f"{text}?concurrency=3")
        assert (spec.kind, spec.model, spec.base_url, spec.sampling) == ("embedded", model, None, Sampling())
        assert (spec.backend, spec.engine, spec.around) == ({}, {}, Around({"concurrency": 3}, {}, 2))


@pytest.mark.parametrize("text", ["embedded:", "vllm:", "transformers:?device=cpu", "http://h/v1", "http://a:b@h/v1#m"])
def test_what_is_no_judge(text: str) -> None:
    with pytest.raises(ConfigError):
        Spec.parse(text)


def test_how_a_judge_is_asked_can_be_said_alone() -> None:
    assert Around.parse("") == Around({}, {}, 2)
    assert Around.parse("tokens_per_minute=9&deadline=5&reasks=0") == Around(
        {"tokens_per_minute": 9}, {"deadline_seconds": 5.0}, 0
    )
    with pytest.raises(ConfigError, match="unknown setting 'temperature'; known are attempts, concurrency, deadline"):
        Around.parse("temperature=0")


@pytest.mark.parametrize(
    "text",
    [
        "http://user:SECRETPW@h/v1?x=1#m",
        "http://user:SECRETPW@h/v1",
        "HTTP://user:SECRETPW@h/v1#m",
        "redis://:SECRETPW@h",
        "openai/gpt-4o?api_key=SECRETPW&api_key=SECRETPW",
        "http://h/v1?api_key=SECRETPW#m",
        "openai/gpt-4o?api_key=SECRETPW",
        "openai/gpt-4o?api_key_env=sk-SECRETPW",
        "sk-SECRETPW",
    ],
)
def test_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Spec.parse(text)
    assert "SECRETPW" not in str(caught.value)


def test_a_scheme_in_capitals_is_an_address() -> None:
    assert Spec.parse("HTTP://h/v1#m").base_url == "HTTP://h/v1"
    with pytest.raises(ConfigError, match="begins with http:// or https://"):
        Spec.parse("ftp://h/v1#m")
