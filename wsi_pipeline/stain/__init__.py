"""RGB pixels of one slide to a stain matrix with a verdict, and RGB patches to H/E concentrations.

Arrays in, arrays out: it reads no slides, chooses no tiles, and never guesses in silence - every
estimate says how far it may be trusted and why.
"""

from wsi_pipeline.stain.estimate import estimate_stain_matrix, require_he
from wsi_pipeline.stain.gate import gate_pixels
from wsi_pipeline.stain.kernel import unpack_counts
from wsi_pipeline.stain.reference import REFERENCE
from wsi_pipeline.stain.separate import (
    HeEncoder,
    decode_he,
    encode_he,
    encode_he_float16,
    fixed_stain_matrix,
    input_rows,
    optical_density,
    unmix,
    unmixing_matrix,
)

__all__ = [
    "REFERENCE",
    "HeEncoder",
    "decode_he",
    "encode_he",
    "encode_he_float16",
    "estimate_stain_matrix",
    "fixed_stain_matrix",
    "gate_pixels",
    "input_rows",
    "optical_density",
    "require_he",
    "unmix",
    "unmixing_matrix",
    "unpack_counts",
]
