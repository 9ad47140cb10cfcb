"""The label and the macro image of a slide, which show names, are in no result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from click.testing import CliRunner
from numpy.typing import NDArray

from wsi_pipeline.cli import main
from wsi_pipeline.store import PatchStore
from wsi_pipeline.synthetic import write_synthetic_slide

LABEL = (255, 0, 255)
"""A colour that no tissue and no picture of ours has."""

APERIO = "Aperio Image Library v12"


def is_label(rgb: NDArray[Any]) -> bool:
    return bool((np.abs(rgb.astype(int) - LABEL).max(axis=-1) < 60).any())


def test_labels_and_macros_are_in_no_result(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "plain.tif", (1024, 1024), mpp=0.5, seed=3)
    base = tifffile.imread(tmp_path / "plain.tif", series=0, level=0)
    label = np.full((400, 400, 3), LABEL, dtype=np.uint8)
    jpeg: dict[str, Any] = {"compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "slide.svs") as file:
        about = f"{APERIO}\n1024x1024 (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
        file.write(base, tile=(256, 256), description=about, **jpeg)
        small = np.ascontiguousarray(base[::4, ::4])
        file.write(small, rowsperstrip=16, description=f"{APERIO}\nthumb", **jpeg)
        for name, kind in (("label", 1), ("macro", 9)):
            text = f"{APERIO}\n{name} 400x400"
            file.write(label, rowsperstrip=16, description=text, subfiletype=kind, **jpeg)

    done = CliRunner().invoke(
        main,
        ["preprocess", f"{tmp_path}/slide.svs", "--out", f"{tmp_path}/o", "--keep-rgb", "--quiet"],
    )

    assert done.exit_code == 0, done.output
    store = PatchStore.open(tmp_path / "o" / "slide" / "patches.zarr")
    paths = sorted((tmp_path / "o").rglob("*.png"))
    pictures = [np.asarray(cv2.imread(str(path)))[..., ::-1] for path in paths]
    assert len(store) > 0
    assert pictures
    for rgb in (*pictures, store.thumbnail, store.read_rgb(0, len(store))):
        assert not is_label(rgb)
