"""A slide's stains, tissue, classes and heatmap -> OME-Zarr 0.5, all to one scale.

Two images, ``image`` (hematoxylin and eosin, with the labels ``tissue`` and ``classes``) and
``heatmap``. Patches pass through a band at a time, so that memory does not grow with the slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.files import replace_folder
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.levels import halve_bytes, halve_labels, mean_levels

if TYPE_CHECKING:
    from wsi_pipeline.results.slide_result import SlideResult
    from wsi_pipeline.store import PatchStore

VERSION = "0.5"
CHUNK_PX = 1024
SMALLEST_PX = 256
STAIN_COLORS = {"hematoxylin": "3D2B8E", "eosin": "D6487E", "DAB": "8A5A2B"}
"""Channels and the colours that viewers show them in."""

TISSUE_RGBA = [0, 121, 107, 255]


def write_ome_zarr(path: Path, result: SlideResult) -> None:
    """Write a slide as an OME-Zarr of two images.

    Parameters
    ----------
    path : Path
        Folder to write; an older one is replaced once the new one is whole.
    result : SlideResult
        Of one slide whose patches were kept.

    Notes
    -----
    Coordinates are um from the corner of the slide. ``image`` has the stored H/E values, 0 where
    there is no tile; the label ``tissue`` is the number of the piece of tissue, ``classes`` is 1
    and up for the classes in their order, 0 for none. ``heatmap`` has a channel per class, NaN
    where nothing was predicted.
    """
    with replace_folder(path) as partial:
        layout = {"version": VERSION, "bioformats2raw.layout": 3}
        root = zarr.create_group(partial, zarr_format=3, attributes={"ome": layout})
        series = {"version": VERSION, "series": ["image", "heatmap"]}
        root.create_group("OME", attributes={"ome": series})
        image = root.create_group("image")
        depth = _write_stains(image, result.store)
        labels = image.create_group("labels")
        labels.attrs["ome"] = {"version": VERSION, "labels": ["tissue", "classes"]}
        _write_labels(labels, result, depth)
        _write_heatmap(root.create_group("heatmap"), result)


def _write_stains(group: zarr.Group, store: PatchStore) -> int:
    """Write the mosaic of H/E patches level by level; return the number of levels."""
    scale = store.slide.mpp / store.mpp
    cols, rows = (max(1, round(side * scale)) for side in store.slide.size_wh)
    array = _create(group, 0, (2, rows, cols), np.dtype(np.uint8))
    for top in range(0, rows, CHUNK_PX):
        band = _band(store, top, min(CHUNK_PX, rows - top), cols)
        if band is not None:
            array[:, top : top + band.shape[1]] = band
    depth = 1
    while max(array.shape[1:]) > SMALLEST_PX:
        array = _reduce(group, depth, array)
        depth += 1
    channels = [_channel(name, STAIN_COLORS[name], 255) for name in store.stain.names]
    _describe(group, "stains", depth, (store.mpp, store.mpp), channels)
    return depth


def _band(store: PatchStore, top: int, height: int, cols: int) -> NDArray[np.uint8] | None:
    """Read the patches that lie in some rows of the mosaic, shape (2, height, cols)."""
    side = store.patch_px
    corners = np.rint(store.rc * (side * store.pitch / store.extent)).astype(np.int64)
    first = int(np.searchsorted(corners[:, 0], top - side, side="right"))
    last = int(np.searchsorted(corners[:, 0], top + height, side="left"))
    if first == last:
        return None
    # a frame takes what protrudes from the band
    framed = np.zeros((2, height + 2 * side, cols + side), dtype=np.uint8)
    for start in range(first, last, store.shard_patches):
        stop = min(start + store.shard_patches, last)
        patches = store.read_he(start, stop)
        if patches.dtype != np.uint8:
            patches = np.rint(patches * np.float32(255)).astype(np.uint8)
        for (row, col), patch in zip(corners[start:stop].tolist(), patches, strict=True):
            y = row - top + side
            framed[:, y : y + side, col : col + side] = patch
    return framed[:, side : side + height, :cols]


def _reduce(group: zarr.Group, depth: int, finer: zarr.Array[Any]) -> zarr.Array[Any]:
    """Write the next level of the mosaic, band by band."""
    _, rows, cols = finer.shape
    shape = (2, -(-rows // 2), -(-cols // 2))
    array = _create(group, depth, shape, np.dtype(np.uint8))
    for top in range(0, rows, 2 * CHUNK_PX):
        band = np.moveaxis(np.asarray(finer[:, top : top + 2 * CHUNK_PX]), 0, -1)
        if band.any():
            halved = halve_bytes(band)
            array[:, top // 2 : top // 2 + len(halved)] = np.moveaxis(halved, -1, 0)
    return array


def _write_labels(labels: zarr.Group, result: SlideResult, depth: int) -> None:
    """Write pieces of tissue and classes at the resolution of the tissue mask."""
    pieces, laid = result.pieces, result.class_map
    dx, dy = pieces.downsample
    rows, cols = pieces.labels.shape
    classes = laid.at((np.arange(cols) + 0.5) * dx, (np.arange(rows) + 0.5) * dy)
    pixel_um = (dy * result.mpp, dx * result.mpp)
    named = {n: core or f"piece {n}" for n, core in enumerate(result.cores, start=1)}
    colors = dict.fromkeys(named, TISSUE_RGBA)
    _write_label(labels.create_group("tissue"), pieces.labels, depth, pixel_um, (named, colors))
    named = dict(enumerate(laid.class_names, start=1))
    colors = {
        value: [*bytes.fromhex(color.removeprefix("#")), 255]
        for value, color in enumerate(laid.class_colors, start=1)
    }
    values = (classes + 1).clip(min=0).astype(np.int32)
    _write_label(labels.create_group("classes"), values, depth, pixel_um, (named, colors))


def _write_label(
    group: zarr.Group,
    values: NDArray[np.integer],
    depth: int,
    pixel_um: tuple[float, float],
    legend: tuple[dict[int, str], dict[int, list[int]]],
) -> None:
    """Write one label image with as many levels as the image it belongs to."""
    for index in range(depth):
        _create(group, index, values.shape, values.dtype)[...] = values
        values = halve_labels(values)
    named, colors = legend
    group.attrs["ome"] = {
        "version": VERSION,
        "multiscales": _multiscales(group.basename, "yx", depth, pixel_um),
        "image-label": {
            "colors": [{"label-value": v, "rgba": rgba} for v, rgba in colors.items()],
            "properties": [{"label-value": v, "name": name} for v, name in named.items()],
            "source": {"image": "../../"},
        },
    }


def _write_heatmap(group: zarr.Group, result: SlideResult) -> None:
    heatmap = result.heatmap
    levels = mean_levels(heatmap.values, SMALLEST_PX)
    for index, level in enumerate(levels):
        planes = np.moveaxis(level, -1, 0)
        _create(group, index, planes.shape, np.dtype(np.float32), np.nan)[...] = planes
    channels = [
        _channel(name, color.removeprefix("#"), 1)
        for name, color in zip(heatmap.class_names, heatmap.class_colors, strict=True)
    ]
    pixel_um = heatmap.cell_px * result.mpp
    _describe(group, "probabilities", len(levels), (pixel_um, pixel_um), channels)


def _channel(label: str, color: str, top: float) -> dict[str, Any]:
    """Describe a channel that viewers show from 0 to ``top`` in a colour, ``rrggbb``."""
    window = {"min": 0, "max": top, "start": 0, "end": top}
    return {"label": label, "color": color.upper(), "active": True, "window": window}


def _describe(
    group: zarr.Group,
    name: str,
    depth: int,
    pixel_um: tuple[float, float],
    channels: list[dict[str, Any]],
) -> None:
    described: dict[str, Any] = {
        "version": VERSION,
        "multiscales": _multiscales(name, "cyx", depth, pixel_um),
        "omero": {"channels": channels},
    }
    group.attrs["ome"] = described


def _create(
    group: zarr.Group,
    level: int,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    fill_value: float = 0,
) -> zarr.Array[Any]:
    sides = [max(1, min(CHUNK_PX, side)) for side in shape[-2:]]
    return group.create_array(
        str(level),
        shape=tuple(shape),
        chunks=tuple([1] * (len(shape) - 2) + sides),
        dtype=dtype,
        fill_value=fill_value,
        dimension_names=list("cyx"[-len(shape) :]),
    )


def _multiscales(
    name: str, axes: str, depth: int, pixel_um: tuple[float, float]
) -> list[dict[str, Any]]:
    """Describe a pyramid; places are those of the centres of pixels, um from the slide's corner."""
    others = len(axes) - 2
    datasets = []
    for level in range(depth):
        scale = [side * 2**level for side in pixel_um]
        transformations = [
            {"type": "scale", "scale": [1.0] * others + scale},
            {"type": "translation", "translation": [0.0] * others + [s / 2 for s in scale]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    described = [
        {"name": axis, "type": "channel"}
        if axis == "c"
        else {"name": axis, "type": "space", "unit": "micrometer"}
        for axis in axes
    ]
    return [{"name": name, "axes": described, "datasets": datasets}]


OME_ZARR = Export(file="{slide_id}.ome.zarr", write=write_ome_zarr)
