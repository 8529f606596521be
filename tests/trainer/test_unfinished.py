from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ruler.errors import ConfigError
from trainer.unfinished import check_is_free, unfinished


def _write(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "judge"
    with unfinished(out) as folder:
        (folder / "weights").write_text("w")
        assert not out.exists()
    assert (out / "weights").read_text() == "w"
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert [path.name for path in out.parent.iterdir()] == ["judge"]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), unfinished(tmp_path / "judge") as folder:
        (folder / "weights").write_text((folder / "none").read_text())
    assert list(tmp_path.iterdir()) == []


def test_what_came_to_stand_there_meanwhile_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "judge" / "theirs"
    with pytest.raises(OSError, match="judge"), unfinished(theirs.parent):
        _write(theirs, "t")
    assert theirs.read_text() == "t"
    assert [path.name for path in tmp_path.iterdir()] == ["judge"]


def test_free_is_a_place_with_nothing_at_it_or_an_empty_folder(tmp_path: Path) -> None:
    check_is_free(tmp_path / "none")
    check_is_free(tmp_path)
    (tmp_path / "file").write_text("")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match=f"out: {taken} is there already"):
            check_is_free(taken)
