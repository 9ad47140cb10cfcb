"""Shorthand for what tests of readers compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.slide.readers import Reader
    from wsi_pipeline.types import MppSource


def whole(reader: Reader, level: int = 0) -> NDArray[np.int64]:
    """Read a level, as integers that can be subtracted."""
    return reader.read(level, (0, 0), reader.level_sizes_wh[level]).astype(np.int64)


def sources(reader: Reader) -> dict[MppSource, tuple[float, float]]:
    """List the stated resolutions by source, um/px."""
    return {c.source: (round(c.x, 6), round(c.y, 6)) for c in reader.mpp_candidates}
