"""Files of features as the pipeline writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_pipeline.results.export.features import Layout, write_features
from wsi_pipeline.store.features import SlideFeatures
from wsi_pipeline.store.passport import Passport


def write_some_features(path: Path, layout: Layout) -> None:
    """Write 40 vectors of 6 values."""
    draws = np.random.default_rng(0)
    passport = Passport(
        encoder="tiny",
        identity="abc",
        weights={"digest": "d"},
        transform={"tile_px": 256, "input_px": 224},
        pooling="mean",
        features=6,
        precision="float32",
        mpp=0.5,
        mpp_read=0.5,
        stain={"normalise": "none"},
        slide={"id": path.stem, "fingerprint": "f", "mpp": 0.25},
        options="o",
    )
    write_features(
        path.parent,
        SlideFeatures(
            slide_id=path.stem,
            features=draws.normal(size=(40, 6)).astype(np.float32),
            xy=draws.integers(0, 5_000, (40, 2)),
            passport=passport,
            tiles={"patch_size": 256, "patch_size_level0": 256, "overlap": 0},
        ),
        layout,
    )
