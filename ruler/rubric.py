"""What the judge is told to value.

Rubric("Prefer answers that cite their source.", name="citations")
Rubric.load("support.toml")        # weighted criteria, rendered as text
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruler.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Rubric:
    """A rubric: text for the judge, and the name and version it goes by in results.

    Raises:
        ConfigError: the text is empty, or holds half a surrogate pair.
    """

    text: str
    name: str = "custom"
    version: str = "1"

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError(f"rubric {self.name!r}: the text is empty")
        try:
            self.text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(f"rubric {self.name!r}: half a surrogate pair at character {error.start}") from None

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()[:12]

    @property
    def id(self) -> str:
        """`name@version#digest`: stands in every result, so that scores of two rubrics never mix."""
        return f"{self.name}@{self.version}#{self.digest}"

    @classmethod
    def load(cls, path: str | Path) -> Rubric:
        """The rubric in a file: `.md` or `.txt` as it is, `.toml` as weighted criteria.

        A TOML rubric has `name`, `version`, an opening `text` (each optional) and `[[criteria]]` with `name`, a
        positive `weight` (default 1) and a `description`. Weights are rendered as shares of 100 %.

        Raises:
            ConfigError: names the file, and the key and value that are wrong.
        """
        path = Path(path)
        try:
            content = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise ConfigError(f"rubric {path}: cannot be read: {error}") from error
        if path.suffix in (".md", ".txt"):
            if not content.strip():
                raise ConfigError(f"rubric {path}: the file is empty")
            return cls(content.strip(), name=path.stem)
        if path.suffix == ".toml":
            try:
                data = tomllib.loads(content)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"rubric {path}: not TOML: {error}") from error
            return _from_toml(data, path)
        raise ConfigError(f"rubric {path}: expected a .md, .txt or .toml file, got {path.suffix or 'no suffix'!r}")


def _from_toml(data: dict[str, Any], path: Path) -> Rubric:
    unknown = set(data) - {"name", "version", "text", "criteria"}
    if unknown:
        raise ConfigError(f"rubric {path}: unknown key {sorted(unknown)[0]!r}")
    for key in ("name", "version", "text"):
        if not isinstance(data.get(key, ""), str):
            raise ConfigError(f"rubric {path}: {key}: expected text, got {data[key]!r}")
    text = data.get("text", "").strip()
    lines = [text] if text else []
    criteria = data.get("criteria", [])
    if not isinstance(criteria, list) or not all(isinstance(item, dict) for item in criteria):
        raise ConfigError(f"rubric {path}: criteria: expected [[criteria]] tables, got {criteria!r}")
    parsed = [_criterion(item, f"rubric {path}: criteria[{i}]") for i, item in enumerate(criteria)]
    if parsed:
        lines.append("Weigh these criteria by their share of the score:")
        largest = max(weight for _, weight, _ in parsed)  # the sum of the weights themselves could overflow
        total = sum(weight / largest for _, weight, _ in parsed)
    for name, weight, description in parsed:
        share = f"{100 * (weight / largest) / total:.3g} %"
        lines.append(f"- {name} ({share}){f': {description}' if description else ''}")
    if not lines:
        raise ConfigError(f"rubric {path}: needs `text` or `[[criteria]]`")
    return Rubric("\n".join(lines), name=data.get("name") or path.stem, version=data.get("version") or "1")


def _criterion(item: dict[str, Any], where: str) -> tuple[str, float, str]:
    """Name, weight and description, each on one line."""
    unknown = set(item) - {"name", "weight", "description"}
    if unknown:
        raise ConfigError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    name, weight, description = item.get("name"), item.get("weight", 1), item.get("description", "")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{where}.name: expected text, got {name!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= sys.float_info.max:
        raise ConfigError(f"{where}.weight: expected a positive number, got {weight!r}")
    if not isinstance(description, str):
        raise ConfigError(f"{where}.description: expected text, got {description!r}")
    return " ".join(name.split()), float(weight), " ".join(description.split())


DEFAULT_RUBRIC = Rubric(
    "- Reaching the task's goal counts most: any rollout that does scores well above any that does not.\n"
    "- Among those that do, fewer detours and needless steps score higher.\n"
    "- Partial progress earns partial credit.\n"
    "- Let score gaps mirror quality gaps.",
    name="default",
)
"""Good for most tasks whose goal can be read from the task messages."""
