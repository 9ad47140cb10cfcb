"""Atomic writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.files import replace_atomically


def test_the_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"

    with replace_atomically(target) as partial:
        partial.write_text("half")
        assert not target.exists()
        assert partial.suffix == ".txt"

    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half_and_fail() -> None:
        with replace_atomically(target) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half_and_fail()

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
