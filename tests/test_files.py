"""Atomic writing, and one writer at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wsi_pipeline.errors import OutputError
from wsi_pipeline.files import locked, replace_atomically, require_folder


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


HOLD = """
import sys
from pathlib import Path
from wsi_pipeline.files import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"

        with pytest.raises(OutputError, match="another process is writing"), locked(folder):
            pass
        other.kill()

    with locked(folder, wait_seconds=10):  # the system lifts the lock of a process that is gone
        assert folder.is_dir()


def test_what_cannot_become_a_folder_of_results_is_named(tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(tmp_path / "gone")
    file.touch()

    with pytest.raises(OutputError, match=rf"link to {tmp_path / 'gone'}, which does not exist"):
        require_folder(link)
    with pytest.raises(OutputError, match="is a file"):
        require_folder(file)
    require_folder(tmp_path)
    require_folder(tmp_path / "new")
