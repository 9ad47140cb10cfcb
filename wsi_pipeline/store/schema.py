"""What a store says of its slide <-> the arrays and JSON attributes of a Zarr group.

Lays out empty arrays and parses attributes; it neither reads nor writes a patch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import TypeAdapter
from zarr.codecs import BloscCodec, Crc32cCodec

from wsi_pipeline.config import HeValues, StoreConfig
from wsi_pipeline.errors import StoreNotFoundError, StoreSchemaError
from wsi_pipeline.store.identity import recipe_hash
from wsi_pipeline.store.shards import COMPRESSOR, LEVEL, ShardLayout
from wsi_pipeline.store.sums import check_sums
from wsi_pipeline.types import (
    CONVENTIONS,
    SlideInfo,
    StainEstimate,
    StainMatrix,
    StainPair,
    StainVerdict,
    TileGrid,
    TissueMask,
)

if TYPE_CHECKING:
    from zarr.core.array_spec import ArrayConfigLike
    from zarr.core.chunk_key_encodings import ChunkKeyEncodingLike

FORMAT = "wsi-pipeline patch store"
SCHEMA = 1
UNLABELLED = -1

UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError,
    OverflowError,
    RuntimeError,  # of codecs, of nests that are too deep, of what is not implemented
)  # fmt: skip
"""What zarr raises of headers that are damaged; those with checksums do not come that far."""

_FLAT: ChunkKeyEncodingLike = {"name": "default", "separator": "."}
"""Chunks lie as files in the folder of their array, not in a folder per axis."""

_WRITE_ALL: ArrayConfigLike = {"write_empty_chunks": True}
"""A chunk of zeros that was written can be told from one that was lost."""

_PACKAGES = (
    "wsi-pipeline", "numpy", "zarr", "numcodecs", "tifffile", "imagecodecs", "openslide-python",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide the content of a store."""
    return {name: _version(name) for name in _PACKAGES}


@cache
def _version(package: str) -> str:
    # does not change while a process runs, and a folder of slides asks once per slide
    return metadata.version(package)


@dataclass(frozen=True, kw_only=True)
class StoreHeader:
    """All that a store holds besides patches.

    Attributes
    ----------
    slide : SlideInfo
        The slide.
    grid : TileGrid
        Its candidate tiles; the kept ones are the patches.
    stain : StainEstimate
        The matrix its patches are unmixed with, and the evidence for it.
    mask : TissueMask
        Tissue and artefacts.
    thumbnail : ndarray of shape (h, w, 3), uint8
        The whole slide, RGB.
    config : dict
        Plain values of every stage that decides the content.
    fingerprint : str
        Tells this slide file from any other.
    label : ndarray of shape (N,), int16, or None
        Index into ``label_names`` per patch, -1 where unknown; None without annotations.
    label_names : tuple of str
        Classes.
    group : tuple of str or None
        Patient or prototype of each patch, for splits.
    stains : tuple of StainEstimate
        Matrices of the slides that the patches are from, where they are from several.
    stain_index : ndarray of shape (N,), int32, or None
        Index into ``stains`` per patch; None where ``stain`` holds for all.
    versions : dict of str to str
        Packages that write the store.
    """

    slide: SlideInfo
    grid: TileGrid
    stain: StainEstimate
    mask: TissueMask
    thumbnail: NDArray[np.uint8]
    config: dict[str, Any]
    fingerprint: str
    label: NDArray[np.int16] | None = None
    label_names: tuple[str, ...] = ()
    group: tuple[str, ...] | None = None
    stains: tuple[StainEstimate, ...] = ()
    stain_index: NDArray[np.int32] | None = None
    versions: dict[str, str] = field(default_factory=package_versions)

    def __post_init__(self) -> None:
        n = len(self.grid)
        if self.thumbnail.ndim != 3 or self.thumbnail.shape[2] != 3:
            raise ValueError(f"thumbnail must be (h, w, 3), got {self.thumbnail.shape}")
        if self.label is not None and self.label.shape != (n,):
            raise ValueError(f"label {self.label.shape} does not match {n} patches")
        if self.label is not None and not _indexes(self.label, len(self.label_names)):
            raise ValueError(f"label must lie in [-1, {len(self.label_names)})")
        if self.group is not None and len(self.group) != n:
            raise ValueError(f"{len(self.group)} groups do not match {n} patches")
        if (self.stain_index is None) != (not self.stains):
            raise ValueError("stains and stain_index are given together or not at all")
        if self.stain_index is not None and self.stain_index.shape != (n,):
            raise ValueError(f"stain_index {self.stain_index.shape} does not match {n} patches")

    @property
    def config_hash(self) -> str:
        """Hash of what in ``config`` decides the patches."""
        return recipe_hash(self.config)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Distinct groups, sorted."""
        return tuple(sorted(set(self.group or ())))

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the group, as JSON would give them back."""
        grid = self.grid
        values = {
            "format": FORMAT,
            "schema": SCHEMA,
            "slide": asdict(self.slide),
            "grid": {
                "level": grid.level,
                "downsample": grid.downsample,
                "read_px": grid.read_px,
                "step_px": grid.step_px,
                "patch_px": grid.patch_px,
                "mpp": grid.mpp,
                "shape": grid.shape,
                "extent": grid.extent,
                "pitch": grid.pitch,
                **_beyond_the_lattice(grid),
            },
            "funnel": grid.funnel(),
            "stain": _stain_to_dict(self.stain),
            "mask_downsample": self.mask.downsample,
            "config": self.config,
            "config_hash": self.config_hash,
            "fingerprint": self.fingerprint,
            "versions": self.versions,
            "label_names": self.label_names,
            "group_names": self.group_names,
            "stains": [_stain_to_dict(stain) for stain in self.stains],
        }
        plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
        return plain

    def small_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are written at once, by name."""
        arrays: dict[str, NDArray[Any]] = {
            "xy": self.grid.xy,
            "rc": self.grid.rc,
            "tissue_fraction": self.grid.tissue_fraction[tuple(self.grid.rc.T)],
            "reasons": self.grid.reasons,
            "tissue_mask": self.mask.areas,
            "thumbnail": self.thumbnail,
        }
        if self.grid.corners is not None:
            arrays["corners"] = self.grid.corners
        if self.label is not None:
            arrays["label"] = self.label
        if self.group is not None:
            codes = {name: code for code, name in enumerate(self.group_names)}
            arrays["group"] = np.array([codes[name] for name in self.group], dtype=np.int32)
        if self.stain_index is not None:
            arrays["stain_index"] = self.stain_index
        return arrays


def _beyond_the_lattice(grid: TileGrid) -> dict[str, Any]:
    """Describe the end of a lattice where it says anything; stores made earlier say nothing."""
    values = {"limit_wh": grid.limit_wh, "remainder": grid.remainder}
    return {name: value for name, value in values.items() if value}


def create_group(path: Path, header: StoreHeader, config: StoreConfig) -> None:
    """Lay out a store without patches at ``path``."""
    group = create_records(path, header)
    n, side = len(header.grid), header.grid.patch_px
    _create_patches(group, "he", (n, 2, side, side), config, np.dtype(config.he_values.value))
    if config.keep_rgb:
        _create_patches(group, "rgb", (n, side, side, 3), config, np.dtype(np.uint8))


def create_records(path: Path, header: StoreHeader) -> zarr.Group:
    """Write at ``path`` all that a store holds beside patches."""
    group = zarr.create_group(path, zarr_format=3, attributes=header.attributes())
    for name, values in header.small_arrays().items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, side) for side in values.shape),
            dtype=values.dtype,
            compressors=_compressors(values.dtype.itemsize),
            chunk_key_encoding=_FLAT,
            config=_WRITE_ALL,
        )
        array[...] = values
    return group


def _create_patches(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    config: StoreConfig,
    dtype: np.dtype[Any],
) -> None:
    """Create an array of patches with one file per shard."""
    group.create_array(
        name,
        shape=shape,
        shards=(config.shard_patches, *shape[1:]),
        chunks=(config.chunk_patches, *shape[1:]),
        dtype=dtype,
        compressors=_compressors(dtype.itemsize),
        chunk_key_encoding=_FLAT,
        config=_WRITE_ALL,
    )


def _compressors(itemsize: int) -> tuple[BloscCodec, Crc32cCodec]:
    """Chosen by ``benchmarks/store.py``; the checksum comes last, so damage is found first."""
    blosc = BloscCodec(cname=COMPRESSOR, clevel=LEVEL, shuffle="bitshuffle", typesize=itemsize)
    return blosc, Crc32cCodec()


def shard_layout(array: zarr.Array[Any]) -> ShardLayout:
    """Tell how the patches of an array lie in its shards.

    Raises
    ------
    StoreSchemaError
        If they are not stored as the schema says.
    """
    compressors = tuple(type(codec) for codec in array.compressors)
    if array.shards is None or compressors != (BloscCodec, Crc32cCodec):
        raise StoreSchemaError(
            f"{array.store_path} is not kept in shards of blosc chunks with a CRC-32C; preprocess "
            f"the slide again with --overwrite"
        )
    return ShardLayout(
        patch_shape=array.shape[1:],
        dtype=np.dtype(array.dtype),
        chunk_patches=array.chunks[0],
        shard_patches=array.shards[0],
    )


def partial_path(path: Path) -> Path:
    """Return the name of a store that is not complete yet."""
    return path.with_name(f"{path.name}.partial")


def shard_file_name(index: int) -> str:
    """Name the file of a shard in the folder of its array."""
    return f"c.{index}.0.0.0"


def open_group(path: Path) -> zarr.Group:
    """Open a Zarr group after telling a missing, an unfinished and a foreign folder apart."""
    if not path.exists():
        unfinished = partial_path(path).exists()
        advice = "run preprocess again to finish it" if unfinished else "check the path"
        raise StoreNotFoundError(f"there is no finished patch store at {path}; {advice}")
    check_sums(path)
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
    except UNREADABLE as error:
        raise StoreSchemaError(
            f"{path} is not a patch store ({error}); give one made by 'wsi-pipeline preprocess'"
        ) from error
    if group.attrs.get("format") != FORMAT:
        raise StoreSchemaError(
            f"{path} is a Zarr group but not a patch store; give a folder made by "
            f"'wsi-pipeline preprocess'"
        )
    schema = group.attrs.get("schema")
    if schema != SCHEMA:
        raise StoreSchemaError(
            f"{path} has schema {schema}, this version reads {SCHEMA}; preprocess the slide again "
            f"or use the version that wrote it"
        )
    return group


def parse_slide(attributes: dict[str, Any]) -> SlideInfo:
    """Rebuild the slide from the attributes of a group."""
    return TypeAdapter(SlideInfo).validate_python(attributes["slide"])


def parse_stain(attributes: dict[str, Any]) -> StainEstimate:
    """Rebuild the stain estimate from the attributes of a group."""
    return _stain_from_dict(attributes["stain"])


def parse_stains(attributes: dict[str, Any]) -> tuple[StainEstimate, ...]:
    """Rebuild the estimates of several slides; empty where one matrix holds for all patches."""
    return tuple(_stain_from_dict(values) for values in attributes["stains"])


def _stain_from_dict(values: dict[str, Any]) -> StainEstimate:
    h_deg, e_deg = values["theta_deg"]
    return StainEstimate(
        matrix=StainMatrix.from_dict(values),
        verdict=StainVerdict(values["verdict"]),
        reasons=tuple(values["reasons"]),
        pixel_count=values["pixel_count"],
        angle_deg=_number(values["angle_deg"]),
        condition=_number(values["condition"]),
        theta_deg=(_number(h_deg), _number(e_deg)),
        pair=_pair(values["convention"]),
        nucleus_um2=values.get("nucleus_um2"),
    )


def _pair(convention: str) -> StainPair:
    pairs = {name: pair for pair, name in CONVENTIONS.items()}
    if convention not in pairs:
        raise ValueError(f"stain convention {convention!r} is of another version")
    return pairs[convention]


def parse_he_values(dtype: np.dtype[Any]) -> HeValues:
    """Tell how H/E values are stored from the type of the array."""
    return HeValues(dtype.name)


def _stain_to_dict(stain: StainEstimate) -> dict[str, Any]:
    measured = {} if stain.nucleus_um2 is None else {"nucleus_um2": stain.nucleus_um2}
    return {
        "convention": stain.convention,
        **stain.matrix.to_dict(),
        "verdict": stain.verdict,
        "reasons": stain.reasons,
        "pixel_count": stain.pixel_count,
        "angle_deg": _json_number(stain.angle_deg),
        "condition": _json_number(stain.condition),
        "theta_deg": [_json_number(angle) for angle in stain.theta_deg],
        **measured,
    }


def _json_number(value: float) -> float | None:
    """JSON has neither NaN nor infinity; both mean "could not be estimated" here."""
    return float(value) if np.isfinite(value) else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _indexes(codes: NDArray[np.int16], count: int) -> bool:
    return bool(((codes >= UNLABELLED) & (codes < count)).all())
