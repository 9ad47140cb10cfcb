"""The patch stores of the benchmark, made from the archives that the data come in.

``restained``: tissue of LC25000, its stains taken out and 24 virtual slides stained anew, with
vectors and strengths as real slides have them. Each seed has its own slides and stains, and no
field of tissue is on two slides. ``mitoses``: patches of 101 real slides of several scanners.
``lc25000``: LC25000 as it is, by prototype, where no stain shifts.
"""

from __future__ import annotations

import csv
import io
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import StainConfig
from wsi_pipeline.stain import estimate_stain_matrix
from wsi_pipeline.synthetic import draw_stains, plan_virtual_slides, restain
from wsi_pipeline.types import StainEstimate, StainMatrix

SLIDES = 24
"""Virtual slides of a seed."""

STORED_PX = 96
"""Side of the stored patches: what a crop of 64 px needs to turn by any angle."""

ARCHIVES = {
    "restained": "lc25000_5class_224.zip",
    "tuning": "lc25000_5class_224.zip",
    "lc25000": "lc25000_5class_224.zip",
    "mitoses": "ami_br_mitoses_128.zip",
}

ORGANS = {"restained": "lung", "tuning": "colon"}
"""The tissue that settings are tuned on is another than what is reported."""


@dataclass(frozen=True, slots=True)
class Field:
    """An image of LC25000; images of one prototype show the same tissue."""

    path: str
    label: str
    prototype: str
    rgb: NDArray[np.uint8]


def make_store(dataset: str, archives: Path, work: Path, seed: int) -> Path:
    """Make the store of a data set, unless it is there; only re-stained ones depend on the seed."""
    archive = archives / ARCHIVES[dataset]
    if dataset not in ORGANS:
        column = "slide" if dataset == "mitoses" else "prototype"
        return _ingest(archive, work / f"{dataset}.zarr", column)
    store = work / f"{dataset}-{seed}.zarr"
    if not store.exists():
        images = work / f"{dataset}-{seed}.zip"
        write_restained(archive, ORGANS[dataset], seed, images)
        _ingest(images, store, "slide")
        images.unlink()
    return store


def write_restained(archive: Path, organ: str, seed: int, out: Path) -> None:
    """Write a zip of re-stained images with their table: path, label and virtual slide."""
    fields = read_fields(archive, organ)
    own = own_stains(fields)
    rng = np.random.default_rng([seed, 24])
    slide = plan_virtual_slides(
        [field.label for field in fields], [field.prototype for field in fields], SLIDES, rng
    )
    stains = [draw_stains(rng) for _ in range(SLIDES)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "slide"])
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for field, number in zip(fields, slide.tolist(), strict=True):
            anew = restain(field.rgb, own[field.prototype], stains[number])
            name = str(Path(field.path).with_suffix(".png"))
            file.writestr(name, cv2.imencode(".png", anew[..., ::-1])[1].tobytes())
            writer.writerow([name, field.label, f"slide-{number:02d}"])
        file.writestr("labels.csv", table.getvalue())


def read_fields(archive: Path, organ: str) -> list[Field]:
    """Read the images of an organ."""
    with zipfile.ZipFile(archive) as file:
        rows = csv.DictReader(io.StringIO(file.read("labels.csv").decode()))
        return [
            Field(row["path"], row["label"], row["prototype"], _decode(file.read(row["path"])))
            for row in rows
            if row["label"].startswith(organ)
        ]


def own_stains(fields: list[Field]) -> dict[str, StainMatrix]:
    """Estimate the stains that each prototype has; the maxima are the medians over all of them.

    The vectors of a field are those of the slide it was taken from, and fields of LC25000 come
    from many: one matrix for all has a negative component. The maxima of a field say how dense its
    tissue is, which is to stay.
    """
    by_prototype: dict[str, list[NDArray[np.uint8]]] = {}
    for field in fields:
        by_prototype.setdefault(field.prototype, []).append(field.rgb[::4, ::4].reshape(-1, 3))
    found = {name: _estimate(np.concatenate(rgb)) for name, rgb in by_prototype.items()}
    maxima = np.median([e.matrix.max_concentration for e in found.values()], axis=0)
    return {
        name: StainMatrix(vectors=estimate.matrix.vectors, max_concentration=maxima)
        for name, estimate in found.items()
    }


def _estimate(pixels: NDArray[np.uint8]) -> StainEstimate:
    return estimate_stain_matrix(pixels, StainConfig(min_pixels=500))


def _decode(content: bytes) -> NDArray[np.uint8]:
    bgr = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(bgr, dtype=np.uint8)[..., ::-1])


def _ingest(images: Path, store: Path, group_column: str) -> Path:
    if not store.exists():
        command = ["wsi-pipeline", "ingest", str(images), "--out", str(store), "--mpp", "0.5"]
        command += ["--group-column", group_column, "--patch-size", str(STORED_PX)]
        subprocess.run([*command, "--fit", "resize", "--quiet"], check=True, capture_output=True)
    return store
