"""The built wheel, installed into an empty environment and used outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_ships_ruler_and_judges_with_types_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ruler", "judges"}
    assert {"ruler/py.typed", "judges/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    shipped = {"config.json", "judge.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert {f"judges/embedded_arithmetic/{name}" for name in shipped} <= set(names)
    for kind in (".html", ".css", ".js"):
        assert any(name.startswith("ruler/service/") and name.endswith(kind) for name in names)


def test_the_installed_wheel_scores_from_the_command_line_and_the_library(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    binaries = environment / "bin"
    install = [str(binaries / "python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    groups = tmp_path / "groups.jsonl"
    groups.write_text(json.dumps([["a"], ["bb"]]).replace('["a"]', '"a"').replace('["bb"]', '"bb"') + "\n")
    out = tmp_path / "scored.jsonl"
    command = [str(binaries / "ruler"), "score", str(groups), "--judge", "simulated", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert json.loads(out.read_text())["status"] == "scored"
    code = "from ruler import *; print(Ruler('simulated').score_sync(Group.of(['a', 'bb'])).scores)"
    done = subprocess.run(
        [str(binaries / "python"), "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "(1.0, 1.0)"
    code = "from ruler.config import load_judge; load_judge('embedded')"
    done = subprocess.run(
        [str(binaries / "python"), "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert "pip install 'ruler-judge[embedded]'" in done.stderr
    subprocess.run([*install[:-1], f"{wheel}[embedded]"], check=True, capture_output=True)
    scored = [str(binaries / "ruler"), "score", str(ROOT / "examples" / "arithmetic.jsonl"), "--judge", "embedded"]
    environ = {"PATH": "", "RULER_CACHE": "off"}
    done = subprocess.run(
        [*scored, "--out", str(tmp_path / "sums.jsonl")], check=True, capture_output=True, cwd=tmp_path, env=environ
    )
    statuses = [json.loads(line)["status"] for line in (tmp_path / "sums.jsonl").read_text().splitlines()]
    assert statuses == ["scored"] * 20
    code = "from ruler.config import load_judge; load_judge('openai/gpt-5-mini')"
    done = subprocess.run(
        [str(binaries / "python"), "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert "pip install 'ruler-judge[litellm]'" in done.stderr
    command = [str(binaries / "ruler"), "serve", "--judge", "simulated"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'ruler-judge[service]'" in done.stderr
    code = "from ruler import *; Client('http://localhost:1').score_sync(Group.of(['a', 'bb']))"
    done = subprocess.run(
        [str(binaries / "python"), "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert "pip install 'ruler-judge[client]'" in done.stderr
