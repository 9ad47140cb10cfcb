"""The resolutions that a slide file states -> the one to work with, and where it came from.

Parses and judges what containers say about micrometres per pixel. Opens no file, and never makes
up a resolution that nothing states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import AnisotropicMppError, MissingMppError
from wsi_pipeline.slide.geometry import OBJECTIVE_MPP
from wsi_pipeline.types import MppSource

PLAUSIBLE_MPP = (0.05, 40.0)
"""Range outside which a stated resolution, um/px, is taken for that of a screen or a printer."""

MAX_ANISOTROPY = 0.015
"""Largest relative difference of the resolutions in x and y."""

_UM_PER_TIFF_UNIT = {2: 25_400.0, 3: 10_000.0, 4: 1_000.0, 5: 1.0}
_UM_PER_IMAGEJ_UNIT = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("inch", "in", "inches"), 25_400.0),
}
_NUMBER = re.compile(r"\s*\+?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_APERIO_FIELD = re.compile(r"\|\s*(?P<key>[^|=]+?)\s*=\s*(?P<value>[^|]*)")


@dataclass(frozen=True, slots=True)
class MppCandidate:
    """A resolution that a file states.

    Attributes
    ----------
    source : MppSource
        Where it stands.
    x, y : float
        um per level-0 px.
    """

    source: MppSource
    x: float
    y: float

    def is_plausible(self) -> bool:
        """Whether both values lie in :data:`PLAUSIBLE_MPP`."""
        low, high = PLAUSIBLE_MPP
        return low <= self.x <= high and low <= self.y <= high


def resolve_mpp(
    path: Path,
    candidates: Iterable[MppCandidate],
    *,
    flag: float | None = None,
    table: float | None = None,
) -> tuple[float, MppSource]:
    """Choose the resolution of a slide.

    The best source wins: ``flag``, then ``table``, then what the file states in the order of
    :class:`~wsi_pipeline.types.MppSource`. Implausible statements, such as the 72 dpi of an image
    editor, are passed over.

    Parameters
    ----------
    path : Path
        The slide, for messages.
    candidates : iterable of MppCandidate
        What the file states.
    flag, table : float or None
        Resolution from the command line and from the slide table, um/px.

    Returns
    -------
    mpp : float
        um per level-0 px, the mean of both axes.
    source : MppSource
        Where it came from.

    Raises
    ------
    MissingMppError
        If nothing plausible is stated.
    AnisotropicMppError
        If the resolutions in x and y differ by more than :data:`MAX_ANISOTROPY`.
    """
    if flag is not None:
        return flag, MppSource.FLAG
    if table is not None:
        return table, MppSource.TABLE
    stated = sorted(candidates, key=lambda candidate: list(MppSource).index(candidate.source))
    believed = next((candidate for candidate in stated if candidate.is_plausible()), None)
    if believed is None:
        raise MissingMppError(_missing(path, stated), path=path)
    if abs(believed.x - believed.y) > MAX_ANISOTROPY * min(believed.x, believed.y):
        raise AnisotropicMppError(
            f"{path} has pixels of {believed.x:g} x {believed.y:g} um ({believed.source}), more "
            f"than {MAX_ANISOTROPY:.1%} from square; if that is a mistake of the file, pass "
            f"--slide-mpp or fill the mpp column of the slide table",
            path=path,
        )
    return (believed.x + believed.y) / 2, believed.source


def from_objective(power: float | None) -> tuple[MppCandidate, ...]:
    """Estimate the resolution from the magnification, if there is one."""
    if power is None:
        return ()
    mpp = OBJECTIVE_MPP / power
    return (MppCandidate(MppSource.OBJECTIVE, mpp, mpp),)


def from_tiff_tags(
    x_per_unit: float | None, y_per_unit: float | None, unit: int
) -> tuple[MppCandidate, ...]:
    """Read the TIFF tags XResolution and YResolution.

    Parameters
    ----------
    x_per_unit, y_per_unit : float or None
        Pixels per unit.
    unit : int
        ResolutionUnit: 2 is the inch, 3 the centimetre, 4 and 5 are the millimetre and the
        micrometre of some writers; 1, no unit, states nothing.
    """
    if unit not in _UM_PER_TIFF_UNIT or not x_per_unit or not y_per_unit:
        return ()
    um = _UM_PER_TIFF_UNIT[unit]
    return (MppCandidate(MppSource.TIFF, um / x_per_unit, um / y_per_unit),)


def from_imagej(
    description: str, x_per_unit: float | None, y_per_unit: float | None
) -> tuple[MppCandidate, ...]:
    """Read the resolution that ImageJ wrote: pixels per a unit that its description names.

    Parameters
    ----------
    description : str
        Lines of ``key=value``, one of them ``unit``.
    x_per_unit, y_per_unit : float or None
        Pixels per unit, from the tags.
    """
    fields = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
    unit = fields.get("unit", "").strip().replace("\\u00B5", "µ").lower()
    um = _UM_PER_IMAGEJ_UNIT.get(unit)
    if um is None or not x_per_unit or not y_per_unit:
        return ()
    # where the units of the axes differ, the one of y stands apart
    y_unit = fields.get("yunit", unit).strip().replace("\\u00B5", "µ").lower()
    y_um = _UM_PER_IMAGEJ_UNIT.get(y_unit, um)
    return (MppCandidate(MppSource.TIFF, um / x_per_unit, y_um / y_per_unit),)


def aperio_fields(description: str) -> dict[str, str]:
    """Split an Aperio image description, ``...|MPP = 0.499|AppMag = 20``, into its fields."""
    return {match["key"]: match["value"].strip() for match in _APERIO_FIELD.finditer(description)}


def positive(text: str | None) -> float | None:
    """Read a positive, finite number, with a point or a comma before its decimals, or nothing."""
    if text is None or not _NUMBER.fullmatch(text):
        return None
    value = float(text.replace(",", "."))
    return value if 0 < value < math.inf else None


def _missing(path: Path, stated: list[MppCandidate]) -> str:
    low, high = PLAUSIBLE_MPP
    found = ", ".join(f"{c.x:.4g} x {c.y:.4g} um/px ({c.source})" for c in stated)
    why = f"states only {found}, outside {low:g} to {high:g}" if found else "does not state any"
    return (
        f"{path} has no usable resolution: it {why}. Pass --slide-mpp MPP (um per level-0 px), or "
        f"give it in the mpp column of a CSV slide table"
    )
