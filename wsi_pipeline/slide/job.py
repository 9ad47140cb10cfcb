"""One slide of a run and what is given for it, and the share of a list that one machine does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.ids import wrong_with

if TYPE_CHECKING:
    from wsi_pipeline.slide.pseudonyms import Redaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One of several equal parts of a list of slides.

    Attributes
    ----------
    index : int
        Which part, from 0.
    count : int
        How many parts there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"shard index {self.index} of {self.count} shards does not exist; they count "
                f"from 0 to {self.count - 1} (sbatch --array=0-{self.count - 1})"
            )

    def of(self, jobs: Sequence[SlideJob]) -> list[SlideJob]:
        """Return every ``count``-th slide: each is in one part, and parts differ by one slide."""
        return list(jobs[self.index :: self.count])


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideJob:
    """One slide to process.

    Attributes
    ----------
    path : Path
        The file, or the folder of a DICOM series.
    slide_id : str
        Names the folder of its results; unique among the jobs of a run.
    mpp : float or None
        Resolution from the slide table, um/px.
    roi : Path or None
        Annotation file whose polygons bound the tiles.
    labels : Path or None
        Annotation file whose areas give the tiles their classes.
    tissue_mask : Path or None
        Annotation file or picture that says where the tissue is.
    group : str or None
        Patient, from the slide table.
    redaction : Redaction or None
        Takes names out of what results say of the slide; None if they may be said.
    """

    path: Path
    slide_id: str
    mpp: float | None = None
    roi: Path | None = None
    labels: Path | None = None
    tissue_mask: Path | None = None
    group: str | None = None
    redaction: Redaction | None = None

    def __post_init__(self) -> None:
        problem = wrong_with(self.slide_id) if self.slide_id else None
        if problem is not None:
            raise ConfigError(
                f"slide id {self.slide_id!r} {problem}; it names the folder of the slide's "
                f"results: give another slide_id in a CSV table"
            )

    @property
    def shown(self) -> str:
        """Path as results say it, in text that every file can hold."""
        if self.redaction is not None:
            return self.slide_id
        return str(self.path).encode("utf-8", "backslashreplace").decode("utf-8")
