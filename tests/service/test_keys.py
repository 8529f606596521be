from __future__ import annotations

from typing import Any

import pytest

from ruler.errors import ConfigError
from ruler.service.keys import Caller, Keys, is_loopback
from ruler.service.problems import Problem
from ruler.service.settings import ServiceSettings

ALICE, BOB = "alice-secret-1", "bob-secret-22"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Keys:
    monkeypatch.setenv("ALICE", ALICE)
    monkeypatch.setenv("BOB", BOB)
    return Keys(new(host="0.0.0.0", keys={"alice": "ALICE", "bob": "BOB"}, operators=["bob"]))


def new(**settings: Any) -> ServiceSettings:
    return ServiceSettings.model_validate({"judge": "simulated", **settings})


def test_each_key_has_its_caller(two: Keys) -> None:
    assert two.caller({"authorization": f"Bearer {ALICE}"}) == Caller("alice", sees_all=False)
    assert two.caller({"authorization": f"bearer  {BOB} "}) == Caller("bob", sees_all=True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {ALICE}",
        ALICE,
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        "Bearer \udc80",
    ],
)
def test_everybody_else_is_refused_and_told_how(two: Keys, header: str | None) -> None:
    with pytest.raises(Problem) as raised:
        two.caller({} if header is None else {"authorization": header})
    assert raised.value.status == 401
    assert raised.value.all_headers()["WWW-Authenticate"].startswith("Bearer")
    assert ALICE not in str(raised.value.body())


def test_without_keys_everybody_on_this_machine_may_call() -> None:
    keys = Keys(new())
    assert not keys.required
    assert keys.caller({}) == Caller("anonymous", sees_all=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_hosts_need_keys_or_a_word(host: str) -> None:
    with pytest.raises(ConfigError, match="keys: other hosts can reach"):
        Keys(new(host=host))
    assert not Keys(new(host=host, no_auth=True)).required


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "keys.a: the environment variable A_KEY is not set"),
        ("  ", "is not set"),
        ("short", "at least 8 characters"),
        ("with a space in it", "without spaces"),
        ("ünïcödé-key", "ASCII"),
    ],
)
def test_a_bad_key_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, key: str | None, said: str) -> None:
    if key is not None:
        monkeypatch.setenv("A_KEY", key)
    with pytest.raises(ConfigError, match=said) as raised:
        Keys(new(keys={"a": "A_KEY"}))
    assert not (key and key.strip() and key in str(raised.value))


def test_one_key_for_two_names_is_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", ALICE)
    with pytest.raises(ConfigError, match=r"keys.b: is the same key as that of 'a'"):
        Keys(new(keys={"a": "A_KEY", "b": "A_KEY"}))


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org")))
