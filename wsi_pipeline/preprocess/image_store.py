"""Labelled images -> a patch store, as if they had been cut from a slide.

Every training run then reads one format. The images are laid out as the tiles of a contact sheet,
so that places, thumbnail and mask mean what they mean for a slide; no tissue is searched for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import HeValues, PipelineConfig
from wsi_pipeline.errors import IngestError, StoreExistsError
from wsi_pipeline.preprocess.group_stains import StainBook, StainScope
from wsi_pipeline.preprocess.labelled_images import LabelledImage, decode_image, read_image
from wsi_pipeline.stain import encode_he, encode_he_float16
from wsi_pipeline.store import PatchStore, StoreHeader, StoreWriter, has_store
from wsi_pipeline.types import (
    Area,
    MppSource,
    NoProgress,
    Progress,
    SlideInfo,
    StainMatrix,
    TileGrid,
    TileReason,
    TissueMask,
)

THUMBNAIL_PX = 1024
"""Longer side of the contact sheet, px, where its cells are not a single pixel already."""

WHITE = 250
"""Pixels with no channel below this hold neither tissue nor glass as a scanner sees it: they are
the frame that a region of interest was pasted on. They take no part in stain estimates."""


class Fit(StrEnum):
    """What is done with images that are not of the size of the patches."""

    EXACT = "exact"
    CROP = "crop"
    RESIZE = "resize"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """How images become patches.

    Attributes
    ----------
    mpp : float
        Resolution of the images, um/px.
    patch_px : int or None
        Side of the patches, px; the shorter side of the first image if None.
    fit : Fit
        ``EXACT`` refuses images of another size; ``CROP`` cuts the middle out of them; ``RESIZE``
        cuts the middle square and resamples it, which changes the resolution, so that all images
        must be of one size.
    stain : StainScope
        ``GROUP``: each group has its own stain matrix where it can be trusted, since a group is
        a patient or slide; ``POOLED``: one matrix for all.
    min_group_images : int
        Groups with fewer images share the pooled matrix: a field or two show the stains of what
        is in them (fat, necrosis), not those of a slide.
    """

    mpp: float
    patch_px: int | None = None
    fit: Fit = Fit.EXACT
    stain: StainScope = StainScope.GROUP
    min_group_images: int = 8

    def plain(self, patch_px: int) -> dict[str, Any]:
        """Return what decides the content of the store, as plain values."""
        return {
            "mpp": self.mpp,
            "patch_px": patch_px,
            "fit": self.fit.value,
            "stain": self.stain.value,
            "min_group_images": self.min_group_images,
        }


def ingest_images(
    images: Sequence[LabelledImage],
    path: Path,
    options: IngestOptions,
    config: PipelineConfig,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PatchStore:
    """Turn labelled images into a patch store with RGB, H/E, label and group.

    Parameters
    ----------
    images : sequence of LabelledImage
        The images; at least one.
    path : Path
        Name of the store, ending in ``.zarr``. A complete store that was made of these very
        images with these options is returned as it is.
    options : IngestOptions
        How images become patches.
    config : PipelineConfig
        Its ``stain`` and ``store`` parts apply; RGB is always kept.
    overwrite : bool
        Replace a store that was made of other images or with other options.
    progress : Progress or None
        Told of every image, first when it is surveyed and then when it is stored.

    Returns
    -------
    PatchStore
        The store. ``tissue_fraction`` is the share of a patch that is not white;
        ``patch_stains`` has the matrix of every patch.

    Raises
    ------
    IngestError
        If an image cannot be decoded or is of another size than ``options`` allow.
    StainEstimationError
        If the images are not H&E.
    StoreExistsError
        If another store has this name and ``overwrite`` is off.
    """
    cut = _Cut.for_images(images[0], options)
    config = config.model_copy(update={"store": config.store.model_copy(update={"keep_rgb": True})})
    with ThreadPoolExecutor() as pool:
        work = _Ingestion(images, cut, config, pool, progress or NoProgress())
        header = work.survey(path.stem)
        if _is_finished(path, header, overwrite=overwrite):
            return PatchStore.open(path)
        writer = StoreWriter.create_or_resume(path, header, config.store, overwrite=overwrite)
        work.fill(writer, header)
    return writer.seal()


@dataclass(frozen=True, slots=True)
class _Cut:
    """How an image of any allowed size becomes a patch of ``patch_px``."""

    options: IngestOptions
    patch_px: int
    source_px: int
    """Side of the square taken out of every image."""

    @classmethod
    def for_images(cls, first: LabelledImage, options: IngestOptions) -> _Cut:
        """Settle what the options leave to the first image."""
        side = min(decode_image(first, read_image(first)).shape[:2])
        patch_px = options.patch_px or side
        return cls(options, patch_px, side if options.fit is Fit.RESIZE else patch_px)

    @property
    def mpp(self) -> float:
        """Resolution of the patches, um/px."""
        return self.options.mpp * self.source_px / self.patch_px

    def __call__(self, image: LabelledImage, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut the patch, shape (P, P, 3), out of an image."""
        height, width = rgb.shape[:2]
        self._require_size(image, height, width)
        side = self.source_px
        top, left = (height - side) // 2, (width - side) // 2
        square = rgb[top : top + side, left : left + side]
        if side == self.patch_px:
            return np.ascontiguousarray(square)
        shrinks = side > self.patch_px
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(square, (self.patch_px, self.patch_px), interpolation=how))

    def _require_size(self, image: LabelledImage, height: int, width: int) -> None:
        fit, side = self.options.fit, self.source_px
        if fit is Fit.EXACT and (height, width) != (side, side):
            advice = f"the patches have {side} x {side}; choose --fit crop or --fit resize"
        elif fit is Fit.CROP and min(height, width) < side:
            advice = f"no patch of {side} px fits; choose a smaller --patch-size"
        elif fit is Fit.RESIZE and min(height, width) != side:
            advice = (
                f"the first has a shorter side of {side}: resized, they would differ in "
                "resolution; choose --fit crop, or ingest each size on its own"
            )
        else:
            return
        raise IngestError(f"{image.name} has {width} x {height} px, {advice}")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the survey keeps of an image."""

    digest: bytes
    cell: NDArray[np.uint8]
    filled: float
    pixels: NDArray[np.uint8]
    """A sample (n, 3) for stain estimates, without the white frame."""


class _Ingestion:
    """Surveys images, then stores them; every image is decoded twice and never kept."""

    def __init__(
        self,
        images: Sequence[LabelledImage],
        cut: _Cut,
        config: PipelineConfig,
        pool: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._images, self._cut, self._config = images, cut, config
        self._pool, self._progress = pool, progress
        self._cols = math.ceil(math.sqrt(len(images)))
        self._rows = math.ceil(len(images) / self._cols)

    def survey(self, slide_id: str) -> StoreHeader:
        """Find out all that must be known before the first patch is stored."""
        self._progress.start(f"{slide_id}: survey", len(self._images))
        cell_px = max(1, THUMBNAIL_PX // self._cols)
        sheet = np.full((self._rows * cell_px, self._cols * cell_px, 3), 255, dtype=np.uint8)
        filled = np.zeros(len(self._images), dtype=np.float32)
        digests = [b""] * len(self._images)
        stains = self._stain_book()
        for members in _by_group(self._images).values():
            for index, seen in zip(
                members, self._pool.map(lambda i: self._look(i, cell_px), members), strict=True
            ):
                row, col = divmod(index, self._cols)
                top, left = row * cell_px, col * cell_px
                sheet[top : top + cell_px, left : left + cell_px] = seen.cell
                filled[index], digests[index] = seen.filled, seen.digest
                stains.add(index, seen.pixels)
                self._progress.advance()
            stains.close_group()
        return self._header(slide_id, sheet, filled, stains, digests)

    def fill(self, writer: StoreWriter, header: StoreHeader) -> None:
        """Write every pending shard."""
        matrices = _matrices(header, len(self._images))
        half = self._config.store.he_values is HeValues.FLOAT16
        encode: Any = encode_he_float16 if half else encode_he
        self._progress.start(f"{header.slide.slide_id}: patches", len(self._images))
        for pending in writer.pending():
            shard = writer.shards[pending]
            rgb = list(self._pool.map(self._patch, range(shard.start, shard.stop)))
            he = np.stack(list(self._pool.map(encode, rgb, matrices[shard.start : shard.stop])))
            writer.write_shard(pending, he, np.stack(rgb))
            self._progress.advance(shard.stop - shard.start)

    def _stain_book(self) -> StainBook:
        options = self._cut.options
        return StainBook(
            len(self._images), options.stain, options.min_group_images, self._config.stain
        )

    def _patch(self, index: int) -> NDArray[np.uint8]:
        image = self._images[index]
        return self._cut(image, decode_image(image, read_image(image)))

    def _look(self, index: int, cell_px: int) -> _Seen:
        image = self._images[index]
        content = read_image(image)
        patch = self._cut(image, decode_image(image, content))
        tinted = patch.min(axis=2) < WHITE
        cell = cv2.resize(patch, (cell_px, cell_px), interpolation=cv2.INTER_AREA)
        return _Seen(
            digest=hashlib.sha256(content).digest(),
            cell=np.asarray(cell, dtype=np.uint8),
            filled=float(tinted.mean()),
            pixels=self._sample(patch, tinted),
        )

    def _sample(self, patch: NDArray[np.uint8], tinted: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Average colours as for slides, and leave out squares with a pixel of the white frame."""
        mpp = self._cut.mpp
        side = max(1, round(self._cut.patch_px * mpp / max(self._config.stain.pixel_um, mpp)))
        colors = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
        share = cv2.resize(tinted.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        return np.asarray(colors[share > 0.999], dtype=np.uint8)

    def _header(
        self,
        slide_id: str,
        sheet: NDArray[np.uint8],
        filled: NDArray[np.float32],
        stains: StainBook,
        digests: list[bytes],
    ) -> StoreHeader:
        side = self._cut.patch_px
        names = tuple(sorted({image.label for image in self._images if image.label}))
        codes = {name: code for code, name in enumerate(names)}
        estimates, stain_index = stains.result()
        grid = self._grid(filled)
        return StoreHeader(
            slide=SlideInfo(
                slide_id=slide_id,
                size_wh=(self._cols * side, self._rows * side),
                mpp=self._cut.mpp,
                mpp_source=MppSource.FLAG,
                level_sizes_wh=((self._cols * side, self._rows * side),),
                level_downsamples=(1.0,),
                reader="images",
                vendor="labelled images",
            ),
            grid=grid,
            stain=estimates[0],
            mask=TissueMask(
                areas=np.where(grid.reasons == TileReason.KEPT, Area.TISSUE, Area.GLASS).astype(
                    np.uint8
                ),
                downsample=(float(side), float(side)),
            ),
            thumbnail=sheet,
            config={
                "stain": self._config.stain.model_dump(mode="json"),
                "store": self._config.store.model_dump(mode="json"),
                "ingest": self._cut.options.plain(side),
            },
            fingerprint=_fingerprint(self._images, digests),
            label=np.array(
                [codes[image.label] if image.label else -1 for image in self._images],
                dtype=np.int16,
            ),
            label_names=names,
            group=tuple(image.group for image in self._images),
            stains=estimates if stain_index.any() else (),
            stain_index=stain_index if stain_index.any() else None,
        )

    def _grid(self, filled: NDArray[np.float32]) -> TileGrid:
        """Lay the images out row by row; what is left of the last row is glass."""
        cells = self._rows * self._cols
        reasons = np.full(cells, TileReason.GLASS, dtype=np.uint8)
        reasons[: len(filled)] = TileReason.KEPT
        fraction = np.zeros(cells, dtype=np.float32)
        fraction[: len(filled)] = filled
        side = self._cut.patch_px
        return TileGrid(
            level=0,
            downsample=1.0,
            read_px=side,
            step_px=side,
            patch_px=side,
            mpp=self._cut.mpp,
            reasons=reasons.reshape(self._rows, self._cols),
            tissue_fraction=fraction.reshape(self._rows, self._cols),
        )


def _by_group(images: Sequence[LabelledImage]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.group, []).append(index)
    return groups


def _matrices(header: StoreHeader, count: int) -> list[StainMatrix]:
    """Return the matrix of every patch."""
    if header.stain_index is None:
        return [header.stain.matrix] * count
    return [header.stains[index].matrix for index in header.stain_index]


def _fingerprint(images: Sequence[LabelledImage], digests: list[bytes]) -> str:
    """Tell these images, with these labels and groups, from any others."""
    whole = hashlib.sha256()
    for image, digest in zip(images, digests, strict=True):
        whole.update(digest)
        whole.update(repr((image.name, image.label, image.group)).encode())
    return whole.hexdigest()


def _is_finished(path: Path, header: StoreHeader, *, overwrite: bool) -> bool:
    """Whether the very store that is asked for is there; another one is an error or replaced."""
    try:
        return has_store(path, recipe=header.config, fingerprint=header.fingerprint)
    except StoreExistsError:
        if not overwrite:
            raise
        return False
