"""Low-resolution RGB of a slide to its tissue mask; and two checks of RGB pixels.

Joins the artefacts with the stained areas; how either is recognised in pixels of one resolution
is kept apart from the resolution at which it is looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.tissue.absorption import measure_absorption
from wsi_pipeline.tissue.artefacts import find_artefacts
from wsi_pipeline.tissue.glass import even_glass
from wsi_pipeline.tissue.regions import Region, connected_to, keep_by_area, within
from wsi_pipeline.tissue.stained import find_stained
from wsi_pipeline.tissue.strength import staining_strength, weaken
from wsi_pipeline.types import Area, TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.config import TissueConfig

MAX_PIXELS = 4_000_000
"""Larger overviews are judged at fewer pixels; outlines are then true to the coarser pixel.

Bounds time and memory: at 8 um/px this holds a section of 16 x 16 mm, and one of 40 x 40 mm is
judged at 20 um/px."""

ARTEFACT_MPP = 16.0
"""Resolution that ink, borders and edges are looked for at, um/px; strokes are far wider."""

DRY_INK_UM2 = 120_000.0
"""Largest piece of stain apart from tissue that ink nearby explains, um^2."""

DRY_INK_UM = 250.0
"""How near that ink must be, um."""

DARK_LEVEL = 50
"""Pixels with no channel at or above this carry no light of a brightfield lamp."""

LIT_LEVEL = 110
"""Mean grey level that the lit half of a brightfield slide exceeds."""


class ClassicSegmenter:
    """Tells tissue by limits on colour and size; nothing is learned.

    Parameters
    ----------
    config : TissueConfig
        Resolution, size limits, and which artefacts are told from tissue.

    Attributes
    ----------
    version : str
        Changes with the rules.
    """

    version = "2"

    def __init__(self, config: TissueConfig) -> None:
        self._config = config

    @property
    def mpp(self) -> float:
        """Resolution of the overview it wants, um/px."""
        return self._config.mask_mpp

    def segment(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
        """Name what each pixel shows, as :func:`detect_tissue` does."""
        return detect_tissue(rgb, mpp, (1.0, 1.0), self._config).areas


def detect_tissue(
    rgb: NDArray[np.uint8],
    mpp: float,
    downsample: tuple[float, float],
    config: TissueConfig,
) -> TissueMask:
    """Tell tissue from glass, pen ink, black borders and glass edges.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide at about ``config.mask_mpp``.
    mpp : float
        Resolution of ``rgb``, um/px.
    downsample : tuple of float
        Level-0 px per px of ``rgb`` in x and y; passed on to the mask.
    config : TissueConfig
        Size limits, and which artefacts are told from tissue.

    Returns
    -------
    TissueMask
        One :class:`~wsi_pipeline.types.Area` per pixel of ``rgb``.

    Notes
    -----
    *Glass* is brought to one neutral grey first (:mod:`~wsi_pipeline.tissue.glass`), and for ink
    and edges a strongly stained section to usual strength (:mod:`~wsi_pipeline.tissue.strength`).

    *Tissue* is what absorbs the colours unequally: a share of Otsu's threshold [1]_ on the spread
    of optical density, so that the limit follows the slide's own stain, with hysteresis down to
    half of it; faint colours must be pink. Then gaps are closed, holes filled and small pieces
    dropped.

    *Ink* is what no mix of hematoxylin and eosin gives: green and blue absorb red more than
    green, red goes far beyond the slide's own eosin, and violet or black is darker than dense
    nuclei are at this resolution. A mark must be solid somewhere; from there it is followed as
    far as its weaker parts connect, and its smooth out-of-focus rim goes with it. Tissue under
    ink counts as ink, and so do scraps that a drying pen left beside its strokes. Brown dye on
    surgical margins is tissue, for brown chromogen is.

    *Neutral* dark marks are black borders where they line the picture's border, glass edges where
    they are long and thin, and black pen otherwise.

    References
    ----------
    .. [1] N. Otsu, IEEE Trans. Systems, Man, and Cybernetics 9 (1979) 62-66.
    """
    shrink = max(1.0, (rgb[..., 0].size / MAX_PIXELS) ** 0.5)
    small, mpp = even_glass(_shrink(rgb, shrink)), mpp * shrink
    coarse = max(1.0, ARTEFACT_MPP / mpp)
    light = measure_absorption(_shrink(small, coarse))
    strength = staining_strength(light)
    if strength > 1:
        light = measure_absorption(_shrink(weaken(small, strength), coarse))
    artefacts = find_artefacts(
        light, mpp * coarse, pen=config.reject_pen, edges=config.reject_edges
    )
    areas = _enlarge(artefacts, small)
    stained = find_stained(small, areas == Area.GLASS, mpp, strength, config)
    areas[stained] = Area.TISSUE
    areas[_find_dry_ink(stained, areas == Area.PEN, mpp)] = Area.PEN
    return TissueMask(areas=_enlarge(areas, rgb), downsample=downsample)


def require_brightfield(rgb: NDArray[np.uint8], slide_id: str) -> None:
    """Refuse a slide that was not taken in transmitted light.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide at low resolution.
    slide_id : str
        Names the slide in the message.

    Raises
    ------
    UnsupportedSlideError
        If most of the picture is black and what is not black is dim or of one colour, as in
        fluorescence. Black borders around a bright field pass, as does a field of dense tissue.
    """
    red, green, blue = cv2.split(rgb)
    dark = cv2.max(cv2.max(red, green), blue) < DARK_LEVEL
    share = float(dark.mean())
    if share < 0.5:
        return
    lit = rgb[~dark].mean(axis=1)
    if lit.size and np.median(lit) >= LIT_LEVEL:
        return
    raise UnsupportedSlideError(
        f"{slide_id} is not a brightfield slide: {share:.0%} of its overview is black and the rest "
        "is dim, as in fluorescence; leave it out, only H&E in transmitted light can be processed"
    )


def sharpness(rgb_patch: NDArray[np.uint8]) -> float:
    """Measure how sharp a patch is.

    Parameters
    ----------
    rgb_patch : ndarray of shape (h, w, 3), uint8
        The patch.

    Returns
    -------
    float
        Variance of the Laplacian of its grey levels, 0 for a flat patch. It grows with contrast
        too, so a limit holds for one stain, scanner and resolution.
    """
    grey = cv2.cvtColor(rgb_patch, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _find_dry_ink(stained: Region, pen: Region, mpp: float) -> Region:
    """Find what a drying pen left beside its strokes: faint scraps that touch no tissue."""
    scraps = keep_by_area(stained, mpp, most_um2=DRY_INK_UM2)
    border = np.ones_like(scraps)
    border[1:-1, 1:-1] = False
    # what the picture's border cuts may be part of a large piece
    whole = scraps & ~connected_to(scraps & border, scraps)
    return connected_to(whole & within(pen, DRY_INK_UM, mpp), whole)


def _shrink(rgb: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Average pixels so that each side shrinks by ``factor``."""
    height, width = rgb.shape[:2]
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _enlarge(areas: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the areas to cover every pixel of ``rgb``."""
    size = (rgb.shape[1], rgb.shape[0])
    return np.asarray(cv2.resize(areas, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
