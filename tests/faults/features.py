"""A file of features as the pipeline writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_pipeline.store.features import SlideFeatures, write_features


def write_some_features(path: Path) -> None:
    """Write 40 vectors of 6 values."""
    draws = np.random.default_rng(0)
    write_features(
        path,
        SlideFeatures(
            slide_id=path.stem,
            features=draws.normal(size=(40, 6)).astype(np.float32),
            xy=draws.integers(0, 5_000, (40, 2)),
            about={"encoder": "abc", "encoder_name": "tiny"},
            tiles={"patch_size": 256, "patch_size_level0": 256, "overlap": 0},
        ),
    )
