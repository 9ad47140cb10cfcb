"""The shape of the code: what is public, what is loaded when, which packages ship."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wsi_pipeline

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *ROOT.glob("wsi_pipeline/**/*.py"),
    *ROOT.glob("models/wsi_models/**/*.py"),
    *ROOT.glob("wsi_files/*.py"),
]


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", wsi_pipeline.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    assert getattr(wsi_pipeline, name).__doc__


def test_public_names_are_listed_once_and_sorted() -> None:
    assert list(wsi_pipeline.__all__) == sorted(set(wsi_pipeline.__all__))
    assert dir(wsi_pipeline) == wsi_pipeline.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        wsi_pipeline.no_such_name  # noqa: B018


def test_importing_the_package_loads_no_heavy_library() -> None:
    loaded = modules_loaded_by("import wsi_pipeline, wsi_pipeline.types, wsi_pipeline.errors")

    assert loaded.isdisjoint({"torch", "openslide", "zarr", "skimage", "cv2", "dask", "matplotlib"})


def test_help_loads_no_heavy_library() -> None:
    loaded = modules_loaded_by("import wsi_pipeline.cli")

    assert loaded.isdisjoint({"torch", "openslide", "zarr", "skimage", "cv2", "dask", "matplotlib"})


def test_every_folder_with_code_is_a_package_and_so_ships() -> None:
    folders = {source.parent for source in SOURCES}

    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_root_shows_the_stages() -> None:
    assert len(list(ROOT.glob("wsi_pipeline/*.py"))) <= 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_keeps_to_its_budgets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"line {node.lineno} uses global"
        if isinstance(node, ast.FunctionDef) and node.body:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            assert length <= 60, f"{node.name} has {length} lines"
    assert text.count("\n") <= 600
