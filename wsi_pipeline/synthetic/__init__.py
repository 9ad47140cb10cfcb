"""A seed to a synthetic H&E slide, written as a pyramidal TIFF, with everything about it known.

Real tissue can be stained anew as well, so that its stains are known.

Demonstrations, tests and documentation stand on it. It imitates the look of tissue well enough to
exercise every stage; it is no model of disease, and a network trained on it knows nothing of any.
"""

from wsi_pipeline.synthetic.annotations import write_areas
from wsi_pipeline.synthetic.layout import Content
from wsi_pipeline.synthetic.restaining import draw_stains, plan_virtual_slides, restain
from wsi_pipeline.synthetic.scene import SyntheticSlide, default_stains
from wsi_pipeline.synthetic.truth import CLASS_COLORS, CLASS_NAMES, SyntheticTruth
from wsi_pipeline.synthetic.write import write_synthetic_slide

__all__ = [
    "CLASS_COLORS",
    "CLASS_NAMES",
    "Content",
    "SyntheticSlide",
    "SyntheticTruth",
    "default_stains",
    "draw_stains",
    "plan_virtual_slides",
    "restain",
    "write_areas",
    "write_synthetic_slide",
]
