"""What is given for a slide besides its pixels -> values: recipe, areas, patient.

The files that a job names are read here and nowhere else, so that the stages get values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.errors import AnnotationError
from wsi_pipeline.preprocess.drawn_tissue import DrawnTissue, read_drawn_tissue
from wsi_pipeline.tiles.classes import ClassArea, find_group, to_classes
from wsi_pipeline.tissue import make_segmenter

if TYPE_CHECKING:
    from pathlib import Path

    import shapely

    from wsi_pipeline.annotations import Annotation
    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.slide.job import SlideJob
    from wsi_pipeline.types import SlideInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What bounds and labels the tiles of a slide.

    Attributes
    ----------
    recipe : dict
        Everything besides the slide's pixels that decides the store, as plain values.
    roi : list of shapely geometries, or None
        Areas that tiles lie in, level-0 px; None for the whole slide.
    areas : tuple of ClassArea, or None
        Annotated areas with their classes; None for a slide that is not annotated.
    tissue : DrawnTissue or None
        Tissue that a person has drawn; None where it is detected.
    group : str or None
        Patient; None where it is not known.
    """

    recipe: dict[str, Any]
    roi: list[shapely.Geometry] | None = None
    areas: tuple[ClassArea, ...] | None = None
    tissue: DrawnTissue | None = None
    group: str | None = None


def recipe_of(job: SlideJob, config: PipelineConfig) -> dict[str, Any]:
    """Gather, as plain values, everything besides the slide's pixels that decides the store."""
    drawn = {} if job.tissue_mask is None else {"tissue_mask": _content_hash(job.tissue_mask)}
    decided = config.preprocessing()
    # the version of a network's file is the hash of its content: where the file lies decides naught
    decided["tissue"]["segmenter"] = config.tissue.segmenter.partition(":")[0]
    return {
        **decided,
        **drawn,
        "table_mpp": job.mpp,
        "roi": _content_hash(job.roi),
        "labels": _content_hash(job.labels),
        "group": job.group,
        "segmenter_version": make_segmenter(config.tissue).version,
    }


def read_given(
    job: SlideJob, slide: SlideInfo, config: PipelineConfig, recipe: dict[str, Any]
) -> Given:
    """Read what is given for a slide.

    Parameters
    ----------
    job : SlideJob
        Names the files.
    slide : SlideInfo
        The slide, whose frame the files are in.
    config : PipelineConfig
        The label map, and how the patient is found in the slide's name.
    recipe : dict
        What :func:`recipe_of` gave.

    Returns
    -------
    Given
        The values.

    Raises
    ------
    AnnotationError
        If a file is malformed, or an area has a name of no class.
    ConfigError
        If annotations have no label map, or the slide's name shows no patient.
    """
    roi = areas = tissue = None
    if job.tissue_mask is not None:
        tissue = read_drawn_tissue(job.tissue_mask, slide)
    if job.roi is not None:
        roi = [area.geometry for area in _areas_on(slide, job.roi)]
    if job.labels is not None:
        areas = to_classes(_areas_on(slide, job.labels), config.label, job.labels)
    group = job.group
    if group is None and config.label.group is not None:
        group = find_group(job.slide_id, config.label.group)
    return Given(
        recipe=recipe,
        roi=roi,
        areas=areas,
        tissue=tissue,
        group=group,
    )


def _areas_on(slide: SlideInfo, file: Path) -> tuple[Annotation, ...]:
    return read_annotations(file, slide.size_wh, bounds_xy=slide.bounds_xy)


def _content_hash(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise AnnotationError(
            f"{file} cannot be read ({error}); check the path and its rights", path=file
        ) from error
