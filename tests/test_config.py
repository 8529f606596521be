from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from judges.cache import CachedJudge
from judges.fallback import FallbackJudge
from judges.limits import LimitedJudge, Limits
from judges.litellm import LiteLLMJudge
from judges.meter import Meter, MeteredJudge
from judges.reask import ReaskingJudge
from judges.retry import RetryingJudge
from judges.scripted import scores_reply
from ruler import Group, Ruler
from ruler.config import Settings, load_judge, load_judges, open_archive, open_store, read_settings, wrap_judge
from ruler.errors import ConfigError, JudgeRejected
from ruler.types import JudgeInfo, JudgeReply, Sampling, Usage, judge_info
from tests.local_server import LocalServer, error


def test_no_judge_says_what_to_set_and_how_to_try_without_a_key() -> None:
    with pytest.raises(ConfigError, match="RULER_JUDGE.*OPENAI_API_KEY.*--judge simulated"):
        load_judge()


def test_the_environment_names_the_judge_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RULER_JUDGE", "simulated?quality=hash")
    assert judge_info(load_judge()).name == "simulated?quality=hash"
    assert judge_info(load_judge("simulated")).name == "simulated?quality=length"


def test_a_simulated_judge_takes_all_its_settings() -> None:
    judge = load_judge("simulated?noise=0.1&flip=0.05&slot_bias=0.2&shape=u&length_bias=0.1&failure=0&seed=4")
    assert (
        judge_info(judge).name
        == "simulated?quality=length&noise=0.1&flip=0.05&slot_bias=0.2&shape=u&length_bias=0.1&seed=4"
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
        ("simulated?quality=truth", "`ruler audit` and the trainer know it"),
        ("simulated?quality=best", "quality: expected one of length, hash, got 'best'"),
        ("simulated?noise=-1", "noise: expected at least 0, got -1.0"),
        ("simulated?noise=a", "noise: cannot use 'a'"),
        ("vllm:", "expected vllm:PATH_OR_ID"),
        ("vllm:/m?device=cpu", "unknown setting 'device'"),
        ("vllm:/m?reasoning_effort=low", "unknown setting 'reasoning_effort'"),
        ("transformers:/m?temperature=0", "unknown setting 'temperature'"),
        ("transformers:", "expected transformers:PATH_OR_ID"),
        ("simulated?attempts=0", "attempts: cannot use '0' .expected at least 1"),
        ("http://127.0.0.1:9/v1#m?requests_per_minute=0", "requests_per_minute: cannot use '0'"),
        ("http://127.0.0.1:9/v1#m?deadline=inf", "deadline: cannot use 'inf' .expected a positive number"),
        ("http://127.0.0.1:9/v1#m?reasks=-1", "reasks: cannot use '-1' .expected at least 0"),
        ("embedded:", "expected embedded:PATH$"),
        ("embedded:/no/such/judge", "^embedded:/no/such/judge: expected a folder that .* wrote: "),
        ("embedded?temperature=0", "unknown setting 'temperature'"),
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


# --- The stack ---


def layers(judge) -> list[type]:
    found = []
    while judge is not None:
        found.append(type(judge))
        judge = getattr(judge, "_judge", None)
    return found


def test_the_stack_stands_in_one_order() -> None:
    stack = [CachedJudge, ReaskingJudge, RetryingJudge, LimitedJudge, MeteredJudge, LiteLLMJudge]
    assert layers(load_judge("http://127.0.0.1:9/v1#m")) == stack
    (uncached,) = load_judges(Settings(judge=("http://127.0.0.1:9/v1#m",), cache="off")).judges
    assert layers(uncached) == stack[1:]


def test_the_layers_take_their_settings_from_the_spec() -> None:
    judge = load_judge(
        "http://127.0.0.1:9/v1#m?concurrency=3&requests_per_minute=60&tokens_per_minute=900&attempts=2&deadline=7&reasks=0"
    )
    assert judge._judge._max_reasks == 0
    retry = judge._judge._judge
    assert (retry._attempts, retry._deadline_seconds) == (2, 7.0)
    assert retry._judge.limits == Limits(3, 60, 900)
    assert judge_info(judge).name == "http://127.0.0.1:9/v1#m", "how often it is asked is no part of what is asked"


async def test_a_judge_of_ones_own_in_the_whole_stack(tmp_path: Path) -> None:
    asked = 0

    async def mine(request):
        nonlocal asked
        asked += 1
        if asked == 1:
            return JudgeReply("no json", model="mine")
        return JudgeReply(scores_reply(dict.fromkeys(request.ids, 50)), model="mine", finish_reason="stop")

    mine.info = JudgeInfo(backend="mine", model="mine-7b")
    settings = Settings(cache=str(tmp_path / "c.db"))
    group = Group.of(["a", "bb"])
    first = await Ruler(wrap_judge(mine, "concurrency=2&reasks=1", settings=settings)).score(group)
    again = await Ruler(wrap_judge(mine, settings=settings)).score(group)
    assert (first.usage.calls, again.usage.calls, again.usage.cache_hits) == (2, 0, 1)
    assert layers(wrap_judge(mine, settings=settings))[:-1] == [
        CachedJudge,
        ReaskingJudge,
        RetryingJudge,
        LimitedJudge,
        MeteredJudge,
    ]
    with pytest.raises(ConfigError, match="unknown setting 'temperature'"):
        wrap_judge(mine, "temperature=0")
    with pytest.raises(ConfigError, match="cache_mode 'readonly': there is no cache"):
        wrap_judge(mine, settings=Settings(cache="off", cache_mode="readonly"))


async def test_wrapped_judges_can_share_one_cap() -> None:
    meter = Meter(max_total_tokens=1_500)

    def named(name: str):
        async def judge(request):
            reply = scores_reply(dict.fromkeys(request.ids, 50))
            return JudgeReply(reply, model=name, usage=Usage(1, 1_000, 0, 100), finish_reason="stop")

        judge.info = JudgeInfo(backend="mine", model=name)
        return wrap_judge(judge, settings=Settings(cache="off"), meter=meter)

    jury = Ruler([named("a"), named("b")])
    results = await jury.score_many([Group.of(["a", "b" * n]) for n in range(2, 5)])
    assert [result.status for result in results] == ["failed"] * 3
    assert {result.reason for result in results} == {"budget"}
    assert meter.usage.calls == 1


def test_where_nothing_is_asked_no_price_is_needed() -> None:
    settings = Settings(judge="http://127.0.0.1:9/v1#m", max_cost_usd=1.0)
    assert load_judges(settings, ask=False).judges
    assert load_judges(settings.model_copy(update={"cache_mode": "readonly"})).judges


def test_fallbacks_wrap_whole_stacks() -> None:
    loaded = load_judges(Settings(judge="simulated", fallback=("simulated?quality=hash",)))
    (chain,) = loaded.judges
    assert isinstance(chain, FallbackJudge)
    assert judge_info(chain).name == "simulated?quality=length -> simulated?quality=hash"
    assert [layers(judge)[0] for judge, _ in chain._judges] == [CachedJudge, CachedJudge]
    with pytest.raises(ConfigError, match="fallback: stands in for one judge"):
        load_judges(Settings(judge=("simulated", "simulated?seed=1"), fallback=("simulated?quality=hash",)))


async def test_the_members_of_a_jury_have_one_meter_and_one_store() -> None:
    loaded = load_judges(Settings(judge=("simulated", "simulated?quality=hash")))
    scored = await Ruler(loaded.judges).score(Group.of(["a", "bb"]))
    assert [juror.judge for juror in scored.jury] == ["simulated?quality=length", "simulated?quality=hash"]
    assert loaded.meter.usage.calls == 2
    assert set(loaded.meter.by_judge) == {juror.judge for juror in scored.jury}
    again = load_judges(Settings(judge=("simulated?quality=hash", "simulated")))
    await Ruler(again.judges).score(Group.of(["a", "bb"]))
    assert again.meter.usage.calls == 0
    await loaded.close()
    await again.close()


async def test_further_judges_of_a_run_share_meter_and_cache(tmp_path: Path) -> None:
    first = load_judges(Settings(judge=("simulated",), cache=str(tmp_path / "a.sqlite3")))
    further = load_judges(Settings(judge=("simulated?quality=hash",), cache="ignored"), beside=first)
    apart = load_judges(Settings(judge=("simulated?quality=hash",), cache="off"), beside=first)
    assert further.meter is apart.meter is first.meter
    assert further.store is first.store
    assert apart.store is None
    await further.close()
    await first.close()


async def test_past_the_cache_every_question_is_asked(tmp_path: Path) -> None:
    with LocalServer() as server, LocalServer() as standby:
        specs = {"judge": (f"{server.url}#m",), "fallback": (f"{standby.url}#m",)}
        loaded = load_judges(Settings(**specs, cache=str(tmp_path / "c.sqlite3")))
        group = Group.of(["a", "bb"])
        for judge, num_asked in ((loaded.judges[0], 1), (loaded.judges[0], 1), (loaded.uncached[0], 2)):
            await Ruler(judge).score(group)
            assert len(server.requests) == num_asked
        server.reply = lambda body: error(401, "gone")
        with pytest.raises(JudgeRejected):
            await Ruler(loaded.uncached[0]).score(group)
        assert not standby.requests
        assert loaded.meter.usage.calls == len(server.requests)
        await loaded.close()


async def test_replay_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(judge="openai/gpt-4o-mini", cache=str(tmp_path / "c.sqlite3"), cache_mode="readonly")
    loaded = load_judges(settings)
    with pytest.raises(JudgeRejected, match="no usable reply in the cache"):
        await Ruler(loaded.judges).score(Group.of(["a", "bb"]))
    await loaded.close()
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        load_judges(settings.model_copy(update={"cache_mode": "use"}))


def test_a_cap_on_money_needs_prices() -> None:
    with pytest.raises(ConfigError, match="max_cost_usd: the price of http://127.0.0.1:9/v1#m is unknown"):
        load_judges(Settings(judge="http://127.0.0.1:9/v1#m", max_cost_usd=1.0))
    load_judges(Settings(judge="http://127.0.0.1:9/v1#m?input_price=1&output_price=2", max_cost_usd=1.0))


# --- The store ---


def test_the_cache_is_in_the_platforms_folder_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = open_store()
    assert store is not None
    assert store.location == str(tmp_path / "ruler-judge" / "replies.sqlite3")
    elsewhere = open_store(str(tmp_path / "here.db"))
    assert elsewhere is not None
    assert elsewhere.location == str(tmp_path / "here.db")
    assert open_store("off") is None
    with pytest.raises(ConfigError, match="cache: it is off"):
        open_archive("off")


def test_a_password_in_the_caches_address_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("redis://me:hunter2@127.0.0.1:9/0")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("location", ["Redis://:hunter2@127.0.0.1:9/0", " redis://:hunter2@h/0", "http://:hunter2@h"])
def test_a_mistyped_address_is_no_file_name(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_store(location)
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_spec_in_a_jury_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="judge: one of the SPECs is empty"):
        load_judges(Settings(judge=("", "simulated"), cache="off"))


def test_a_key_variable_that_is_empty_is_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(ConfigError, match="no key: set OPENAI_API_KEY"):
        load_judge("openai/gpt-4o-mini")


@pytest.mark.parametrize("mode", ["readonly", "refresh"])
def test_a_mode_without_a_cache_is_a_mistake(mode) -> None:
    with pytest.raises(ConfigError, match=f"cache_mode '{mode}': there is no cache"):
        load_judges(Settings(judge="simulated", cache="off", cache_mode=mode))


# --- Settings from a file, the environment and options ---


def test_options_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('judge = "simulated"\nfallback = ["simulated?quality=hash"]\ncache = "file.db"\nmax_cost_usd = 2\n')
    read = read_settings(path)
    assert read == Settings(
        judge=("simulated",), fallback=("simulated?quality=hash",), cache="file.db", max_cost_usd=2.0
    )
    monkeypatch.setenv("RULER_CACHE", "env.db")
    monkeypatch.setenv("RULER_JUDGE", "simulated?seed=1")
    assert read_settings(path).cache == "env.db"
    assert read_settings(path).judge == ("simulated?seed=1",)
    read = read_settings(path, judge=["simulated?seed=2", "simulated"], cache="given.db", fallback=None, policy=None)
    assert (read.judge, read.cache) == (("simulated?seed=2", "simulated"), "given.db")
    assert read.fallback == ("simulated?quality=hash",)
    monkeypatch.setenv("RULER_SETTINGS", str(path))
    assert read_settings().max_cost_usd == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("judges = 'simulated'", "unknown setting 'judges'; known are judge, fallback, policy, cache"),
        ("judge = 3", "judge: expected a SPEC or a list of SPECs, got 3"),
        ("judge = ['simulated', 3]", "judge.1.*got 3"),
        ("max_cost_usd = -1", "max_cost_usd.*got -1"),
        ("max_cost_usd = '1'", "max_cost_usd.*got '1'"),
        ("max_cost_usd = nan", "max_cost_usd.*got nan"),
        ("max_total_tokens = true", "max_total_tokens.*got True"),
        ("max_total_tokens = 0", "max_total_tokens.*got 0"),
        ("cache_mode = 'off'", "cache_mode.*use.*refresh.*readonly.*got 'off'"),
        ("judge =", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"settings {path}: {message}") as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.toml: cannot be read: No such file"):
        read_settings(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="max_cost_usd.*got -1"):
        read_settings(max_cost_usd=-1.0)
