"""A passport of features that no encoder made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wsi_pipeline.store.passport import Passport


def some_passport(**changes: Any) -> Passport:
    """The passport of vectors of seven features from tiles of 256 px at 0.5 um/px."""
    passport = Passport(
        encoder="moments",
        identity="f" * 64,
        weights={"digest": "d" * 64},
        transform={"tile_px": 256, "input_px": 224},
        pooling="class",
        features=7,
        precision="float32",
        mpp=0.5,
        mpp_read=0.5,
        stain={"normalise": "none"},
        slide={"fingerprint": "abc", "mpp": 0.25},
        options="0" * 16,
    )
    return replace(passport, **changes)
