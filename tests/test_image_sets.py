"""Sets of labelled images as they are downloaded -> a model of real tissue, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from wsi_models.bundle import load_bundle
from wsi_models.recipe import load_recipe
from wsi_models.recipes import find_recipe

from tests.labelled import STAINS, paint, write_image
from wsi_pipeline.cli import main
from wsi_pipeline.store import PatchStore

KATHER = (
    "01_TUMOR", "02_STROMA", "03_COMPLEX", "04_LYMPHO", "05_DEBRIS", "06_MUCOSA", "07_ADIPOSE",
    "08_EMPTY",
)  # fmt: skip
NCT = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")


def train(recipe: object, *arguments: object) -> Result:
    quick = ("--epochs", 1, "--iterations", 1, "--labels-per-class", 1, "--quiet", "--json")
    command = ["train", recipe, *arguments, *quick]
    return CliRunner().invoke(main, [str(part) for part in command])


def small_recipe(folder: Path, name: str) -> Path:
    """Write a packaged recipe with an encoder that needs no weights."""
    text = find_recipe(name).read_text()
    assert 'name = "resnet18"\nweights = "imagenet"' in text
    path = folder / f"{name}.toml"
    path.write_text(text.replace('name = "resnet18"\nweights = "imagenet"', 'name = "small"'))
    return path


def test_images_of_known_slides_are_split_by_slide(tmp_path: Path) -> None:
    stains = STAINS["slide-a"]
    for code, name in enumerate(KATHER):
        for slide in range(5):
            picture = paint(stains, 0.2 + 0.08 * code, 10 * code + slide, 150)
            file = f"1{code}{slide}F_CRC-Prim-HE-0{slide + 1}_00{code}.tif_Row_1_Col_151.tif"
            write_image(tmp_path / "tiles" / name / file, picture)
    result = train("kather_2016", "--images", tmp_path / "tiles", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    groups = json.loads((tmp_path / "run" / "split.json").read_text())["groups"]
    slides = [slide for part in groups.values() for slide in part]
    assert sorted(slides) == [f"CRC-Prim-HE-0{slide}" for slide in range(1, 6)]
    store = PatchStore.open(tmp_path / "run" / "images.zarr")
    assert (store.mpp, store.patch_px, len(store)) == (0.495, 150, 40)
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert bundle.config.class_names[:2] == ("tumor", "stroma")
    assert "Kather et al. 2016" in bundle.config.training.data
    assert "CC BY 4.0" in (tmp_path / "run" / "bundle" / "README.md").read_text()


def test_the_same_command_goes_on_with_the_same_images(tmp_path: Path) -> None:
    for code, name in enumerate(NCT):
        for index in range(4):
            picture = paint(STAINS["slide-b"], 0.2 + 0.07 * code, 10 * code + index, 224)
            write_image(tmp_path / "tiles" / name / f"{name}-{index}.tif", picture)
    recipe = small_recipe(tmp_path, "nct_crc")
    command = (recipe, "--images", tmp_path / "tiles", "--out", tmp_path / "run")
    assert train(*command).exit_code == 0
    made = (tmp_path / "run" / "images.zarr" / "zarr.json").stat().st_mtime_ns
    result = train(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "images.zarr" / "zarr.json").stat().st_mtime_ns == made


def test_images_and_stores_are_not_given_at_once(tmp_path: Path) -> None:
    recipe = find_recipe("class_m_small")
    result = train(recipe, "--out", tmp_path / "run")
    assert "either patch stores (--data) or a set of images (--images)" in result.stderr
    result = train(recipe, "--images", tmp_path, "--out", tmp_path / "run")
    assert "does not say how images become patches" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["nct_crc", "kather_2016"])
def test_a_set_has_as_many_labels_as_classes(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    assert set(recipe.classes.labels.values()) == set(recipe.classes.names)
    assert set(recipe.classes.labels) == set(NCT if name == "nct_crc" else KATHER)


@pytest.mark.data
def test_real_tiles_of_nct_become_a_model(tmp_path: Path, data_dir: Path) -> None:
    for file in sorted((data_dir / "patches" / "crc_val_he_7k_32tiles").glob("*.png")):
        picture = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        write_image(tmp_path / "tiles" / file.name.split("-")[0] / file.name, np.asarray(picture))
    rng = np.random.default_rng(0)
    for index in range(4):
        glass = rng.normal(240, 2, (224, 224, 3)).round().clip(0, 255).astype(np.uint8)
        write_image(tmp_path / "tiles" / "BACK" / f"BACK-{index}.png", glass)
    recipe = small_recipe(tmp_path, "nct_crc")
    result = train(recipe, "--images", tmp_path / "tiles", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    store = PatchStore.open(tmp_path / "run" / "images.zarr")
    # their colours were normalised to a picture, which no slide has: it is said, not hidden
    assert store.stain.verdict.value == "flagged"
    assert len(load_bundle(tmp_path / "run" / "bundle").config.class_names) == 9


@pytest.mark.data
def test_real_tiles_of_kather_become_a_model(tmp_path: Path, data_dir: Path) -> None:
    files = sorted((data_dir / "patches" / "kather2016_8tiles").glob("*.png"))
    for name, file in zip(KATHER, files, strict=True):
        picture = np.asarray(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB))
        # each tile turned stands for one of another slide: there is one of each class
        for turns in range(4):
            target = f"1A_CRC-Prim-HE-0{turns + 1}_001.tif_Row_1_Col_1.png"
            write_image(tmp_path / "tiles" / name / target, np.rot90(picture, turns))
    result = train("kather_2016", "--images", tmp_path / "tiles", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert len(load_bundle(tmp_path / "run" / "bundle").config.class_names) == 8
