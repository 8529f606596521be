"""Who may import whom, and what `import ruler` must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "litellm", "openai", "fastapi", "uvicorn", "numpy", "httpx", "rich", "typer", "transformers", "vllm"}
HEAVY |= {"tenacity", "platformdirs", "redis", "starlette", "jinja2", "prometheus_client"}
FRAMEWORKS = {"trl", "verl", "openrlhf", "slime", "verifiers", "art", "tinker", "tinker_cookbook", "swift", "ray"}
# Under the core, in layers: each may import those before it.
FOUNDATIONS = ["ruler.errors", "ruler.messages", "ruler.types"]
EDGES = {
    f"ruler.{name}"
    for name in (
        *("adapters", "audit", "cli", "client", "config", "evaluation", "records", "results", "progress", "reading"),
        *("service", "stored_results", "tokens"),
    )
}
# What only some rooms know.
OWNERS = {
    "rich": ("ruler.cli", "ruler.progress"),
    "typer": ("ruler.cli",),
    "httpx": ("ruler.client", "judges"),
    **dict.fromkeys(("numpy", "safetensors"), ("judges.embedded_model",)),
    "jinja2": ("ruler.service", "judges.local_model"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client"), ("ruler.service",)),
}


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, at top level) of every import that is not for type checkers alone."""
    return list(read_imports(path))


def read_imports(path: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in guarded:
            continue
        top = node in tree.body
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            yield str(node.module), top
            for alias in node.names:
                yield f"{node.module}.{alias.name}", top


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_core_never_imports_judges() -> None:
    for name, path in modules("ruler").items():
        for imported, _ in imports(path):
            assert not inside(imported, "judges"), f"{name} imports {imported}; only ruler.config loads judges, by name"


def test_judges_know_the_types_and_errors_of_ruler_alone() -> None:
    for name, path in modules("judges").items():
        for imported, _ in imports(path):
            if inside(imported, "ruler"):
                assert inside(imported, "ruler.types") or inside(imported, "ruler.errors"), f"{name} imports {imported}"


def test_nothing_that_ships_imports_trainer_benchmarks_or_tests() -> None:
    for package in ("ruler", "judges"):
        for name, path in modules(package).items():
            for imported, _ in imports(path):
                assert imported.split(".")[0] not in ("trainer", "benchmarks", "tests"), f"{name} imports {imported}"


def test_the_trainer_knows_ruler_and_judges_alone() -> None:
    for name, path in modules("trainer").items():
        for imported, _ in imports(path):
            assert imported.split(".")[0] not in ("benchmarks", "tests"), f"{name} imports {imported}"


def test_torch_stays_in_the_trainer_and_the_local_judges() -> None:
    for package in ("ruler", "judges"):
        for name, path in modules(package).items():
            if not name.startswith(("judges.transformers", "judges.vllm")):
                assert not any(inside(imported, "torch") for imported, _ in imports(path)), name


@pytest.mark.parametrize(
    "name",
    [
        "trainer.environments",
        "trainer.rewards",
        "trainer.tasks.arithmetic",
        "trainer.tasks.inbox",
        "trainer.distill.sums.groups",
    ],
)
def test_what_users_write_needs_no_torch(name: str) -> None:
    code = f"import sys, {name}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_the_foundations_stand_on_each_other_in_order() -> None:
    for level, name in enumerate(FOUNDATIONS):
        for imported, _ in imports(modules("ruler")[name]):
            if inside(imported, "ruler"):
                assert any(inside(imported, below) for below in FOUNDATIONS[:level]), f"{name} imports {imported}"


def test_the_core_does_not_import_its_edges() -> None:
    for name, path in modules("ruler").items():
        if any(inside(name, edge) for edge in EDGES):
            continue
        for imported, top in imports(path):
            assert not (top and any(inside(imported, edge) for edge in EDGES)), f"{name} imports {imported}"


def test_each_library_stays_in_its_room() -> None:
    for package in ("ruler", "judges"):
        for name, path in modules(package).items():
            for imported, _ in imports(path):
                rooms = OWNERS.get(imported.split(".")[0])
                assert rooms is None or any(inside(name, room) for room in rooms), f"{name} imports {imported}"


@pytest.mark.parametrize(
    "name", ["ruler", "ruler.config", "judges", "judges.simulated", "judges.reask", "judges.embedded"]
)
def test_importing_stays_cheap(name: str) -> None:
    code = f"import sys, {name}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_no_adapter_loads_its_trainer_before_it_is_used() -> None:
    names = ", ".join(modules("ruler/adapters"))
    code = f"import sys, {names}; print({{m.split('.')[0] for m in sys.modules}} & {HEAVY | FRAMEWORKS!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_no_pickle_anywhere() -> None:
    for package in ("ruler", "judges", "trainer"):
        for name, path in modules(package).items():
            assert not any(inside(imported, "pickle") for imported, _ in imports(path)), name
