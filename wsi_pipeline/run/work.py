"""A slide and how it is to be done -> what decides each stage of it, and which are done already.

Opens no slide and reads no result: told from records, sizes and times of change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.files import require_inside
from wsi_pipeline.preprocess.given import recipe_of
from wsi_pipeline.run.marks import Mark, Stage, is_untouched, stamp
from wsi_pipeline.slide.readers import require_file
from wsi_pipeline.store.identity import recipe_hash

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.run.outcome import SlideOutcome
    from wsi_pipeline.slide.job import SlideJob


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideOptions:
    """How each slide of a run is done.

    Attributes
    ----------
    out : Path
        Folder of the run; the slide's own folder is made in it.
    config : PipelineConfig
        The configuration.
    workers : int
        Threads that read and unmix.
    overwrite : bool
        Replace patch stores that were made with another configuration or are damaged.
    redo : bool
        Do everything anew.
    """

    out: Path
    config: PipelineConfig = field(default_factory=PipelineConfig)
    workers: int = 1
    overwrite: bool = False
    redo: bool = False

    def folder(self, slide_id: str) -> Path:
        """Return the folder of a slide's results.

        Raises
        ------
        OutputError
            If it is a link that leads elsewhere.
        """
        folder = self.out / slide_id
        require_inside(self.out, folder)
        return folder

    def relative(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Return names as records keep them."""
        return {kind: path.relative_to(self.out).as_posix() for kind, path in files.items()}


def store_origin(job: SlideJob, options: SlideOptions) -> dict[str, Any]:
    """Tell what decides a patch store, as far as it is known without opening the slide.

    Parameters
    ----------
    job : SlideJob
        The slide.
    options : SlideOptions
        How it is done.

    Returns
    -------
    dict
        ``recipe``, a hash; ``source``, size and time of change of the slide's files.

    Raises
    ------
    SlideReadError
        If the slide is not there.
    OSError
        If one of its annotation files is not there.
    """
    require_file(job.path)
    source = _source_stamp(job.path)
    recipe = recipe_of(job, options.config)
    return {"recipe": recipe_hash(recipe), "source": source}


def predictions_origin(model: TrainedModel, options: SlideOptions, store: Mark) -> dict[str, Any]:
    """Tell what decides the predictions of a store.

    Parameters
    ----------
    model : TrainedModel
        The model.
    options : SlideOptions
        How it is done; the device and the size of batches decide nothing.
    store : Mark
        Of the patches.

    Returns
    -------
    dict
        Plain values.
    """
    return {
        **model_origin(model, options),
        "store": {key: store.made_from.get(key) for key in ("recipe", "fingerprint", "content")},
    }


def exports_origin(predictions: Mapping[str, Any], options: SlideOptions) -> dict[str, Any]:
    """Tell what decides the files that are made of predictions."""
    return {**predictions, "results": options.config.results.model_dump(mode="json")}


def model_origin(model: TrainedModel, options: SlideOptions) -> dict[str, Any]:
    """Tell what decides predictions besides the patches."""
    return {
        "model": model.fingerprint,
        "precision": options.config.predict.precision.value,
    }


def agrees(origin: Mapping[str, Any], mark: Mark | None) -> bool:
    """Tell whether a stage was made from the same values, as far as ``origin`` names them."""
    return mark is not None and all(mark.made_from.get(key) == origin[key] for key in origin)


def finished_stages(
    record: SlideOutcome | None,
    origins: Mapping[Stage, Mapping[str, Any]],
    out: Path | None,
) -> dict[str, Mark]:
    """Find the stages on record that need not be done again.

    Parameters
    ----------
    record : SlideOutcome or None
        What is on record of a slide or a slide and model.
    origins : mapping of Stage to mapping
        What decides each stage that is wanted.
    out : Path or None
        Folder of the run; None if the files are elsewhere, in a bucket.

    Returns
    -------
    dict of str to Mark
        Those that were made from the same values and whose files are untouched.
    """
    marks = {} if record is None else record.stages
    return {
        stage: marks[stage]
        for stage, origin in origins.items()
        if agrees(origin, marks.get(stage)) and (out is None or is_untouched(marks[stage], out))
    }


def _source_stamp(path: Path) -> list[int]:
    """Take down size and time of change of the files of a slide."""
    found = [stamp(path)]
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        found.append(stamp(path.with_suffix("")))
    if path.suffix.lower() == ".dcm":
        found = [stamp(file) for file in sorted(path.parent.glob("*.dcm"))]
    return [value for part in found for value in (part.size, part.stamp)]
