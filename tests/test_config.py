from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from judges.reask import ReaskingJudge
from ruler.config import load_judge
from ruler.errors import ConfigError
from ruler.types import Sampling, judge_info


def test_no_judge_says_what_to_set_and_how_to_try_without_a_key() -> None:
    with pytest.raises(ConfigError, match="RULER_JUDGE.*OPENAI_API_KEY.*--judge simulated"):
        load_judge()


def test_the_environment_names_the_judge_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RULER_JUDGE", "simulated?quality=hash")
    assert judge_info(load_judge()).name == "simulated?quality=hash"
    assert judge_info(load_judge("simulated")).name == "simulated?quality=length"


def test_a_simulated_judge_takes_all_its_settings() -> None:
    judge = load_judge("simulated?noise=0.1&flip=0.05&slot_bias=0.2&shape=u&length_bias=0.1&failure=0&seed=4")
    assert isinstance(judge, ReaskingJudge)
    assert (
        judge.info.name == "simulated?quality=length&noise=0.1&flip=0.05&slot_bias=0.2&shape=u&length_bias=0.1&seed=4"
    )


def test_a_server_of_ones_own() -> None:
    judge = load_judge("http://127.0.0.1:9/v1#my/model:7b?temperature=0&max_tokens=4000&timeout=60&context_tokens=8000")
    info = judge_info(judge)
    assert info.name == "http://127.0.0.1:9/v1#my/model:7b?temperature=0&max_tokens=4000"
    assert info.sampling == Sampling(temperature=0.0, max_tokens=4000)
    assert info.context_tokens == 8000


def test_a_hosted_judge_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-value")
    info = judge_info(load_judge("openai/gpt-4o-mini?seed=3&reasoning_effort=low"))
    assert info.name == "openai/gpt-4o-mini?seed=3&reasoning_effort=low"
    assert info.sampling == Sampling(seed=3, reasoning_effort="low")
    assert info.images
    assert "sk-secret" not in repr(info)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai/gpt-4o-mini", "OPENAI_API_KEY"),
        ("nonsense", "'?nonsense"),
        ("noprovider/some-model", "noprovider/some-model"),
        ("http://127.0.0.1:9/v1", "http://host:port/v1#model"),
        ("http://127.0.0.1:9/v1#m?api_key_env=NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE"),
        ("http://127.0.0.1:9/v1#m?temprature=0", "unknown setting 'temprature'.*temperature"),
        ("http://127.0.0.1:9/v1#m?temperature=hot", "temperature: cannot use 'hot'"),
        ("http://127.0.0.1:9/v1#m?max_tokens=0", "max_tokens: cannot use '0' .expected at least 1"),
        ("http://127.0.0.1:9/v1#m?timeout=nan", "timeout: cannot use 'nan'"),
        ("http://127.0.0.1:9/v1#m?images=yes", "images: cannot use 'yes' .expected true or false"),
        ("http://127.0.0.1:9/v1#m?seed=1&seed=2", "'seed' is given twice"),
        ("http://127.0.0.1:9/v1?temperature=0#m", "settings come after the model"),
        ("simulated?quality", "key=value"),
        ("simulated?quality=truth", "truth is known to `ruler evaluate` alone"),
        ("simulated?quality=best", "quality: expected one of length, hash, got 'best'"),
        ("simulated?noise=-1", "noise: expected at least 0, got -1.0"),
        ("simulated?noise=a", "noise: cannot use 'a'"),
        ("vllm:/models/x", "not in this version yet"),
        ("transformers:some/model", "not in this version yet"),
        ("embedded", "not in this version yet"),
    ],
)
def test_a_bad_spec_is_one_error_that_names_the_value(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_judge(spec)
    assert "\n" not in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="api_key_env=NAME") as caught:
        load_judge("http://me:hunter2@127.0.0.1:9/v1#m")
    assert "hunter2" not in str(caught.value)


def test_evaluation_may_pass_truth_as_quality() -> None:
    judge = load_judge("simulated?quality=truth", truth=lambda task, rollout: 1.0)
    assert judge_info(judge).name == "simulated?quality=truth"


def test_a_foreign_judges_package_is_noticed_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    foreign = types.ModuleType("judges")
    foreign.__file__ = str(tmp_path / "judges" / "__init__.py")
    monkeypatch.setitem(sys.modules, "judges", foreign)
    with pytest.raises(ConfigError, match=f"another one: {tmp_path}/judges"):
        load_judge("simulated")


def test_a_missing_extra_names_the_install_line() -> None:
    code = "import sys; sys.modules['litellm'] = None; from ruler.config import load_judge; load_judge('openai/gpt-4o')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError" in done.stderr
    assert "pip install 'ruler-judge[litellm]'" in done.stderr
