"""Everything that reads a file: a sound input of each, and what reading it gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
from wsi_models.bundle import BundleConfig, load_bundle, save_bundle
from wsi_models.checkpoint import load_checkpoint, save_checkpoint
from wsi_models.mil.bags import read_slide_labels
from wsi_models.mil.config import load_mil_recipe
from wsi_models.networks.description import build_network
from wsi_models.recipe import load_recipe

from tests.contracts.slide_files import picture, write_ome, write_pyramid, write_svs
from tests.faults.features import write_some_features
from tests.faults.mutate import BINARY, TEXT, Mutator
from tests.faults.outlines import (
    write_asap,
    write_camicroscope,
    write_geojson,
    write_imagescope,
    write_ncrf,
)
from tests.faults.scanners import write_dicom, write_ndpi
from tests.labelled import write_images
from tests.mirax import TILE_PX, write_mirax
from tests.stores import make_header, make_predictions, make_store
from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.config import LabelConfig, load_config
from wsi_pipeline.preprocess.labelled_images import decode_image, find_images, read_image
from wsi_pipeline.results.export.features import Layout
from wsi_pipeline.results.export.parquet import read_predictions, write_predictions
from wsi_pipeline.run.processes import ProcessLane
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.store import PatchStore
from wsi_pipeline.store.features import read_features
from wsi_pipeline.tiles.classes import to_classes
from wsi_pipeline.tiles.places import lay_in_areas

if TYPE_CHECKING:
    from wsi_pipeline.run.lanes import Tools

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that reads a file or folder.

    Attributes
    ----------
    make : callable
        Writes a sound input at a path.
    read : callable
        Reads it, and returns plain values that stand for all of its content.
    mutators : tuple of callable
        How its files are changed.
    sealed : bool
        Whether it has checksums, so that other content than was written must not be read.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    mutators: tuple[Mutator, ...]
    sealed: bool = False


def _digest(values: Any) -> str:
    array = np.ascontiguousarray(values)
    return f"{array.dtype} {array.shape} {hash(array.tobytes())}"


def _read_slide(path: Path) -> Any:
    """Read what preprocessing reads: an overview, and patches of every level."""
    with open_slide(path) as slide:
        width, height = slide.info.size_wh
        slide.fingerprint()
        slide.overview(max(8.0, 8 * slide.info.mpp))
        for level, (w, h) in enumerate(slide.info.level_sizes_wh):
            slide.read_level(level, (w // 2, h // 2), (min(w, 256), min(h, 256)))
        slide.read_region((width / 2, height / 2), (64, 64), mpp=2 * slide.info.mpp)
    return None


@cache
def _decoder() -> ProcessLane:
    return ProcessLane("decode", 1, lambda news: None)


def _read_decoded(path: Path) -> Any:
    """Read a slide where runs do: in a process that may die of it."""
    work = partial(_in_lane, path)
    return _decoder().submit(path.name, work).result()


def _in_lane(path: Path, tools: Tools) -> Any:
    warnings.simplefilter("ignore")
    return _read_slide(path)


def _make_annotated(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["X"] = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
        for axis in "xy":
            file[f"obs/{axis}"] = np.arange(40)
        file["uns/about"] = "vectors"


def _make_foreign(path: Path) -> None:
    """Write what CLAM does, compressed, without checksums."""
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
        file.create_dataset("features", data=values, chunks=(16, 6), compression="gzip")
        file["coords"] = np.arange(80).reshape(40, 2)
        file["coords"].attrs["patch_size"] = 256


def _make_jpeg_pyramid(path: Path) -> None:
    write_pyramid(
        path, picture(300, 200), compression="jpeg", resolution=(20_000, 20_000), resolutionunit=3
    )


def _make_lzw(path: Path) -> None:
    write_pyramid(
        path, picture(300, 200), compression="lzw", resolution=(20_000, 20_000), resolutionunit=3
    )


def _make_mirax(path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2 * TILE_PX, TILE_PX, 3), dtype=np.uint8)
    write_mirax(path, rgb, (1, 2))


def _make_image(path: Path) -> None:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))


def _read_plain(path: Path) -> Any:
    from wsi_pipeline.config import ReadConfig

    with open_slide(path, ReadConfig(slide_mpp=0.5)) as slide:
        slide.overview(8.0)
        slide.read_level(0, (0, 0), (64, 64))


def _read_areas(path: Path) -> Any:
    """Read areas and lay tiles in them, as labelling does."""
    areas = read_annotations(path, (20_000, 10_000))
    names = sorted({area.name for area in areas}) or ["none"]
    config = LabelConfig(classes={f"class {i}": (name,) for i, name in enumerate(names)})
    classed = to_classes(areas, config, path)
    lay_in_areas(classed, 256.0, 256.0, adaptive=True, within_wh=(20_000.0, 10_000.0))


def _make_slide_table(path: Path) -> None:
    path.write_text(
        "path,slide_id,mpp,roi,group\na.svs,a_left,0.25,l.geojson,p1\na.svs,a_right,0.25,,p1\n"
        "b.svs,,0.5,,p2\nc/d.svs,,,,\n"
    )


def _read_slide_table(path: Path) -> Any:
    for job in find_slides([str(path)]):
        job.slide_id.encode()
        str(job.path).encode()


def _make_label_table(path: Path) -> None:
    path.write_text("slide_id,label,patient\na,tumour,p1\nb,normal,p2\nc,,p3\nd,tumour,p4\n")


def _make_images(path: Path) -> None:
    write_images(path, per_group=2, px=32)


def _read_images(path: Path) -> Any:
    for image in find_images(path):
        decode_image(image, read_image(image))


def _make_zip(path: Path) -> None:
    import shutil

    folder = path.with_suffix("")
    write_images(folder, per_group=2, px=32)
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)


def _make_config(path: Path) -> None:
    from wsi_pipeline.config import PipelineConfig, dump_config

    text = dump_config(PipelineConfig())
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("#")))


def _read_recipe(path: Path) -> Any:
    load_recipe(path)


def _bundle_config() -> BundleConfig:
    return BundleConfig.model_validate_json(
        json.dumps(
            {
                "name": "tiny",
                "method": "CLASS-M",
                "network": {
                    "kind": "stain-pair",
                    "encoder": {"name": "small", "planes": [4, 4, 8, 8], "weights": None},
                },
                "class_names": ["a", "b"],
                "class_colors": ["#000000", "#ffffff"],
                "mpp": 0.5,
                "patch_px": 64,
                "stain_convention": "macenko-log10-he-v1",
                "mean": [0.1, 0.2],
                "std": [0.1, 0.2],
                "training": {"loss": "x", "data": "x", "seed": 0, "metrics": {"auc": 0.9}},
            }
        )
    )


def _make_bundle(path: Path) -> None:
    config = _bundle_config()
    save_bundle(path, config, build_network(config.network, 2, 64), "# tiny\n")


def _read_bundle(path: Path) -> Any:
    bundle = load_bundle(path)
    weights = bundle.network.state_dict()
    return bundle.config.model_dump_json(), [_digest(weights[name]) for name in sorted(weights)]


def _make_store(path: Path) -> None:
    n = 20
    make_store(
        path,
        make_header(
            n,
            label=np.arange(n, dtype=np.int16) % 3 - 1,
            label_names=("a", "b"),
            group=tuple("pq"[i % 2] for i in range(n)),
        ),
    )


def _read_store(path: Path) -> Any:
    store = PatchStore.open(path)
    store.verify()
    return (
        json.dumps(store.attributes, sort_keys=True, default=str),
        store.group,
        *(
            _digest(values)
            for values in (
                store.read_he(0, len(store)), store.xy, store.rc, store.label, store.areas,
                store.thumbnail, store.reasons, store.tissue_fraction,
            )
        ),
    )  # fmt: skip


def _make_predictions(path: Path) -> None:
    write_predictions(path, make_predictions(n=60))


def _read_table(path: Path) -> Any:
    found = read_predictions(path)
    return (
        found.class_names, found.class_colors, found.shape, found.extent, found.pitch,
        _digest(found.prob), _digest(found.xy), _digest(found.rc),
    )  # fmt: skip


def _make_features(layout: Layout) -> Callable[[Path], None]:
    return lambda path: write_some_features(path, layout)


def _read_vectors(path: Path) -> Any:
    found = read_features(path)
    return (
        found.slide_id, _digest(found.features), None if found.xy is None else _digest(found.xy)
    )  # fmt: skip


def _make_checkpoint(path: Path) -> None:
    import torch

    save_checkpoint(path, {"epoch": 3, "network": {"a": torch.arange(200.0)}, "name": "x"})


def _copy_example(name: str) -> Callable[[Path], None]:
    def copy(path: Path) -> None:
        path.write_bytes((ROOT / "models" / "wsi_models" / "recipes" / name).read_bytes())

    return copy


TARGETS: dict[str, Target] = {
    "slide.tif": Target(make=_make_jpeg_pyramid, read=_read_slide, mutators=BINARY),
    "lzw.tif": Target(make=_make_lzw, read=_read_slide, mutators=BINARY),
    "slide.svs": Target(
        make=lambda path: write_svs(path, picture(300, 200)), read=_read_slide, mutators=BINARY
    ),
    "slide.ome.tif": Target(
        make=lambda path: write_ome(path, picture(300, 200)),
        read=_read_slide,
        mutators=(*BINARY, *TEXT),
    ),
    "slide.mrxs": Target(make=_make_mirax, read=_read_slide, mutators=(*BINARY, *TEXT)),
    "slide.ndpi": Target(make=write_ndpi, read=_read_decoded, mutators=BINARY),
    "slide.dcm": Target(make=write_dicom, read=_read_decoded, mutators=BINARY),
    "slide.png": Target(make=_make_image, read=_read_plain, mutators=BINARY),
    "slide.jpg": Target(make=_make_image, read=_read_plain, mutators=BINARY),
    "areas.geojson": Target(make=write_geojson, read=_read_areas, mutators=TEXT),
    "asap.xml": Target(make=write_asap, read=_read_areas, mutators=TEXT),
    "imagescope.xml": Target(make=write_imagescope, read=_read_areas, mutators=TEXT),
    "camicroscope.json": Target(make=write_camicroscope, read=_read_areas, mutators=TEXT),
    "ncrf.json": Target(make=write_ncrf, read=_read_areas, mutators=TEXT),
    "slides.csv": Target(make=_make_slide_table, read=_read_slide_table, mutators=TEXT),
    "labels.csv": Target(make=_make_label_table, read=read_slide_labels, mutators=TEXT),
    "images": Target(make=_make_images, read=_read_images, mutators=(*BINARY, *TEXT)),
    "images.zip": Target(make=_make_zip, read=_read_images, mutators=BINARY),
    "config.toml": Target(make=_make_config, read=load_config, mutators=TEXT),
    "recipe.toml": Target(make=_copy_example("class_m.toml"), read=_read_recipe, mutators=TEXT),
    "mil.toml": Target(make=_copy_example("mil.toml"), read=load_mil_recipe, mutators=TEXT),
    "bundle": Target(make=_make_bundle, read=_read_bundle, mutators=(*BINARY, *TEXT), sealed=True),
    "patches.zarr": Target(
        make=_make_store, read=_read_store, mutators=(*BINARY, *TEXT), sealed=True
    ),
    "predictions.parquet": Target(
        make=_make_predictions, read=_read_table, mutators=BINARY, sealed=True
    ),
    "features.h5": Target(
        make=_make_features(Layout.H5), read=_read_vectors, mutators=BINARY, sealed=True
    ),
    "features.zarr": Target(
        make=_make_features(Layout.ZARR),
        read=_read_vectors,
        mutators=(*BINARY, *TEXT),
        sealed=True,
    ),
    "stamp.h5": Target(
        make=_make_features(Layout.STAMP), read=_read_vectors, mutators=BINARY, sealed=True
    ),
    "others.h5": Target(make=_make_foreign, read=_read_vectors, mutators=BINARY),
    "annotated.h5ad": Target(make=_make_annotated, read=_read_vectors, mutators=BINARY),
    "checkpoint.pt": Target(make=_make_checkpoint, read=load_checkpoint, mutators=BINARY),
}
"""By the name of the file or folder that is read."""
