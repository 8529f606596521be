from __future__ import annotations

from pathlib import Path

import pytest

from ruler.errors import ConfigError
from ruler.service.settings import ServiceSettings, read_service_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "service.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_with_everything_named(tmp_path: Path) -> None:
    settings = read_service_settings(
        written(
            tmp_path,
            """
            judge = "simulated"
            orders = 2
            port = 9000
            [judges.careful]
            judge = ["simulated", "simulated?quality=hash"]
            orders = 4
            [judges.plain]
            judge = "simulated"
            [rubrics]
            support = "support.md"
            [keys]
            alice = "ALICE_KEY"
            """,
        )
    )
    assert settings.port == 9000
    assert settings.judges["careful"].judge == ("simulated", "simulated?quality=hash")
    assert settings.rubrics == {"support": Path("support.md")}
    assert settings.scoring("careful").orders == 4


def test_a_named_judge_takes_what_it_leaves_out_from_the_top() -> None:
    settings = ServiceSettings.model_validate(
        {"judge": "a", "orders": 2, "notes": False, "judges": {"b": {"judge": "x", "notes": True}}}
    )
    assert (settings.scoring("default").orders, settings.scoring("default").notes) == (2, False)
    assert (settings.scoring("b").orders, settings.scoring("b").notes) == (2, True)


def test_options_win_over_the_environment_and_this_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, 'judge = "simulated"\nport = 1\nqueue = 1\nhost = "::1"')
    monkeypatch.setenv("RULER_PORT", "2")
    monkeypatch.setenv("RULER_QUEUE", "2")
    monkeypatch.setenv("RULER_CONTENT", "false")
    monkeypatch.setenv("RULER_ORDERS", "full")
    settings = read_service_settings(path, port=3)
    assert (settings.port, settings.queue, settings.host, settings.content) == (3, 2, "::1", False)
    assert settings.orders == "full"


def test_flags_add_to_the_tables_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[judges.a]\njudge = "x"\n[judges.b]\njudge = "x"')
    settings = read_service_settings(path, judges={"b": {"judge": "y"}, "c": {"judge": "z"}})
    assert {name: named.judge for name, named in settings.judges.items()} == {"a": ("x",), "b": ("y",), "c": ("z",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 8000", "unknown setting 'prot'; known are"),
        ('[judges.a]\njudge = "x"\nordres = 2', "unknown setting 'judges.a.ordres'"),
        ('port = "8000"', "port: Input should be a valid integer, got '8000'"),
        ("port = 70000", "port: .*65535, got 70000"),
        ("no_auth = 1", "no_auth: .*boolean, got 1"),
        ("orders = 3", "orders: .*got 3"),
        ("queue = 0", "queue: .*got 0"),
        ("collect_seconds = nan", "collect_seconds: .*got nan"),
        ('short_groups = "guess"', "short_groups: .*got 'guess'"),
        ('[judges."a b"]\njudge = "x"', "judges"),
        ('[judges.default]\njudge = "x"', "judges.default: this name is the one of `judge` at the top"),
        ('[rubrics]\ndefault = "x.md"', "rubrics.default: this name is the one of `rubric` at the top"),
        ('no_auth = true\n[keys]\na = "A"', "no_auth: there are keys"),
        ('operators = ["b"]\n[keys]\na = "A"', "operators: there is no key called 'b'"),
        ("max_buffered_bytes = 1000", "max_buffered_bytes: expected at least twice max_body_bytes, got 1000"),
        ('golden = "g.jsonl"', "golden: give it together with golden_minutes"),
        ('golden = "g"\ngolden_groups = 5\ncache_mode = "readonly"', "golden: in the cache mode readonly"),
        ("golden_minutes = 5", "golden: give it together with golden_minutes"),
        ("judge = 7", "judge: expected a SPEC or a list of SPECs, got 7"),
        ("not toml", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as raised:
        read_service_settings(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_flags_may_give_what_the_file_lacks(tmp_path: Path) -> None:
    path = written(tmp_path, 'operators = ["ops"]\ngolden = "g.jsonl"')
    settings = read_service_settings(path, keys={"ops": "OPS"}, golden_minutes=5)
    assert settings.operators == ("ops",)


def test_a_wrong_value_in_the_environment_is_said_to_stand_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RULER_PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(ConfigError, match="in the environment: port: .* got 'tcp://10.0.0.1:8000'"):
        read_service_settings()
