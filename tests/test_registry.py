"""Parts by name: ours and those of installed packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.registry import Registry

GROUP = "wsi_pipeline.tests"
OWN = {"path": "pathlib:Path", "missing": "pathlib:NoSuchName", "absent": "no_such_module:x"}


def announce(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """Install a package of nothing but entry points."""
    about = folder / "brings-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brings\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_own_parts_are_loaded_by_name() -> None:
    parts: Registry[type] = Registry("thing", GROUP, OWN)

    assert parts.names == ("path", "missing", "absent")
    assert parts.get("path") is Path


def test_parts_of_installed_packages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(tmp_path, monkeypatch, "pure = pathlib:PurePath\npath = pathlib:Path")

    parts: Registry[type] = Registry("thing", GROUP, OWN)

    assert parts.names == ("path", "missing", "absent", "pure")
    assert parts.get("pure").__name__ == "PurePath"


def test_a_name_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(tmp_path, monkeypatch, "path = pathlib:PurePath")

    with pytest.raises(ConfigError, match=r"thing called 'path': pathlib:Path and pathlib:PurePa"):
        Registry("thing", GROUP, OWN).get("path")


def test_unknown_and_broken_parts_say_so() -> None:
    parts: Registry[type] = Registry("thing", GROUP, OWN)

    with pytest.raises(ConfigError, match="no thing 'other'; choose one of path, missing, absent"):
        parts.get("other")
    with pytest.raises(ConfigError, match="'missing' cannot be loaded from pathlib:NoSuchName"):
        parts.get("missing")
    with pytest.raises(ConfigError, match="'absent' cannot be loaded from no_such_module:x"):
        parts.get("absent")
