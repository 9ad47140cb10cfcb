"""The stains that colours are normalised to where no slide of one's own is named."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.types import StainMatrix

_VECTORS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
_MAXIMA_NATURAL = np.array([1.9705, 1.0308])
_BACKGROUND = 240.0

REFERENCE = StainMatrix(
    vectors=_VECTORS / np.linalg.norm(_VECTORS, axis=1, keepdims=True),
    max_concentration=_MAXIMA_NATURAL / np.log(10),
    background=np.full(3, _BACKGROUND),
)
"""The reference that implementations of Macenko's method have carried since its Matlab code: its
concentrations are in natural logarithms, against a background of 240; here they are in log10."""
