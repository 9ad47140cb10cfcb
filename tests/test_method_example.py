"""The method that the documentation shows, installed as a package of its own and trained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from wsi_models.errors import TrainingError
from wsi_models.methods import method_configs

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "extending.md"
RECIPE = """
name = "vicreg"
[train]
epochs = 10
[method]
method = "vicreg"
unlabelled_per_step = 6
clusters = 5
projected = 16
encoder = {name = "small"}
views = {patch_px = 32, blur_px = [0.1, 0.5]}
"""

TRAINING = """
import sys
from pathlib import Path

import torch
from tests.tiny_patches import tiny_batch, without_labels
from wsi_models.methods import Batch, build_method
from wsi_models.recipe import load_recipe

torch.manual_seed(0)
method = build_method(load_recipe(Path(sys.argv[1])).settled().method, 3)
optimizer, whole = method.optimizer(), without_labels(tiny_batch(3, 2))
none = Batch(whole.rgb[:0], whole.unmix[:0], whole.label[:0])
losses = []
for _ in range(15):
    found = method(none, whole, 1.0, torch.Generator().manual_seed(0))
    optimizer.zero_grad()
    found.total.backward()
    optimizer.step()
    losses.append(found.parts["invariance"])
print(losses[0], losses[-1])
"""


def example() -> str:
    """The module that the documentation shows."""
    section = DOCS.read_text(encoding="utf-8").split("## A method of your own")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    return str(code)


def install(folder: Path, package: str, name: str) -> None:
    about = folder / f"{package}-0.1.dist-info"
    about.mkdir()
    (folder / f"{package}.py").write_text(example(), encoding="utf-8")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(
        f"[wsi_models.methods]\n{name} = {package}:VicRegConfig\n", encoding="utf-8"
    )


def test_the_documented_example_is_short() -> None:
    assert len(example().splitlines()) < 40


def test_an_installed_method_trains_by_its_recipe(tmp_path: Path) -> None:
    install(tmp_path, "vicreg_of_a_lab", "vicreg")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "models")))

    # methods are gathered once per process, so that of the package needs one of its own
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path / "recipe.toml")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    first, last = map(float, done.stdout.split())
    assert last < 0.9 * first


def test_a_name_of_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "vicreg_named_as_ours", "clusiam")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(TrainingError, match="two packages offer a method 'clusiam'"):
        method_configs()
