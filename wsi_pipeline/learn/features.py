"""The tiles of a slide and a frozen encoder -> one feature vector per tile, computed once and kept.

Tiles are read from the slide itself, so that a store of H/E patches serves too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.types import STAIN_CONVENTION, NoProgress, Progress

if TYPE_CHECKING:
    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.predict.trained import TrainedEncoder
    from wsi_pipeline.slide.open import Slide
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import EncoderSpec, TileGrid


def compute_features(
    store: PatchStore,
    slide: Slide,
    encoder: TrainedEncoder,
    config: PredictConfig,
    path: Path,
    *,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Compute the features of every kept tile of a slide, unless they are there already.

    Parameters
    ----------
    store : PatchStore
        Which tiles there are.
    slide : Slide
        The slide they are read from, open.
    encoder : TrainedEncoder
        Its module maps RGB patches to (B, F) features. Tiles are shrunk or enlarged to its
        ``patch_px``, so that it sees all of each.
    config : PredictConfig
        Device, batch size, precision.
    path : Path
        ``.npz`` to keep them in.
    progress : Progress or None
        Told of every batch.

    Returns
    -------
    ndarray of shape (N, F), float32
        In the order of the store.

    Raises
    ------
    FeaturesError
        If the encoder takes no RGB.
    SlideError
        If the slide cannot be read.
    """
    if encoder.spec.input != "rgb":
        raise FeaturesError(
            f"encoder {encoder.spec.name} sees stains, and labels are learnt from colours; choose "
            "an encoder of RGB patches"
        )
    about = {
        "encoder": encoder.fingerprint,
        "encoder_name": encoder.spec.name,
        "slide_fingerprint": store.fingerprint,
        "config_hash": store.config_hash,
    }
    found = _find(path, len(store), about)
    if found is None:
        found = _encode(store.grid, slide, encoder, config, progress or NoProgress())
        with replace_atomically(path) as partial:
            np.savez(partial, features=found, about=json.dumps(about))
    return found


def _find(path: Path, tiles: int, about: dict[str, Any]) -> NDArray[np.float32] | None:
    """Read features of these very tiles by this very encoder; none are there on a first visit."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as kept:  # a checksum guards each array
            features = np.asarray(kept["features"], dtype=np.float32)
            same = json.loads(str(kept["about"])) == about and len(features) == tiles
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # damaged: computing them again is all that could be advised
    return features if same else None


def _encode(
    grid: TileGrid, slide: Slide, encoder: TrainedEncoder, config: PredictConfig, progress: Progress
) -> NDArray[np.float32]:
    # torch is loaded here, so that a page that only shows results does not wait for it
    from wsi_pipeline.predict.encode import colour_feed, encode_feed

    tiles = _WholeTiles(grid, slide, encoder.spec)
    return encode_feed(colour_feed(tiles, encoder.spec, None), encoder, config, progress)


class _WholeTiles:
    """The kept tiles of an open slide, each resized to what an encoder takes.

    A frozen encoder has no resolution of its own to be true to: it is shown all of each tile.
    """

    has_rgb = True
    stain_convention = STAIN_CONVENTION

    def __init__(self, grid: TileGrid, slide: Slide, spec: EncoderSpec) -> None:
        self.patch_px, self.mpp = spec.patch_px, spec.mpp
        self.xy, self.rc, self.grid_shape = grid.xy, grid.rc, grid.shape
        self.extent, self.pitch = grid.extent, grid.pitch
        self._grid, self._slide = grid, slide

    def __len__(self) -> int:
        return len(self._grid)

    def read_rgb(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the tiles ``start`` to ``stop``, shape (stop - start, P, P, 3)."""
        grid = self._grid
        patches = np.empty((stop - start, self.patch_px, self.patch_px, 3), dtype=np.uint8)
        for patch, (x, y) in zip(patches, grid.level_xy[start:stop].tolist(), strict=True):
            patch[:] = self._slide.read_patch(grid.level, (x, y), grid.read_px, self.patch_px)
        return patches

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Refuse: stains are not read."""
        raise FeaturesError(f"tiles {start} to {stop} were asked for as stains, not as colours")
