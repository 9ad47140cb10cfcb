"""A folder of results -> its slides and what there is of each, by names that cannot leave it.

Whatever a browser asks for is looked up among names found on disk; no path is ever made of what
it sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import ConfigError, ReportError
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.store import PatchStore
from wsi_pipeline.store.find import STORE_NAME

RECORD_NAME = "run.json"
PREDICTIONS_NAME = "predictions.parquet"
ATTENTION_NAME = "attention.parquet"
LABELS_NAME = "labels.geojson"
LEARNED = "learned"
"""Name of the map that labels make."""

WORK_FOLDER = ".view"
"""Classes, features and jobs of the page, inside the results folder; no slide id begins so."""


class NotInResults(LookupError):
    """There is no slide, map or file of that name in the results."""


@dataclass(frozen=True, slots=True)
class MapFile:
    """A map of a slide: class probabilities, or attention."""

    name: str
    kind: str
    path: Path


class ResultsFolder:
    """The results of a run, read again when a run adds to them.

    Parameters
    ----------
    out : Path
        Folder of the run.
    slides : Path or None
        Where slides lie now, if they were moved since the run.
    labels : Path or None
        Folder of ``<slide_id>.geojson`` that labels are read from and written to; those beside
        the results of each slide if None.

    Raises
    ------
    ReportError
        If the folder holds no report of a run.
    """

    def __init__(self, out: Path, slides: Path | None = None, labels: Path | None = None) -> None:
        self.out = out.resolve()
        self.work = self.out / WORK_FOLDER
        self._moved = slides
        self._labels = labels
        self._lock = Lock()
        self._seen: tuple[int, int] | None = None
        self._report: RunReport
        self._records: dict[str, SlideOutcome] = {}
        self._refresh()

    @property
    def report(self) -> RunReport:
        """The report of the run."""
        self._refresh()
        return self._report

    def records(self) -> dict[str, SlideOutcome]:
        """Return the record of every slide by its id, in the order of the run."""
        self._refresh()
        return self._records

    def record(self, slide_id: str) -> SlideOutcome:
        """Find the record of a slide.

        Raises
        ------
        NotInResults
            If the run has no slide of this id, or it is no name of a folder in the results.
        """
        found = self.records().get(slide_id)
        if found is None or not is_plain(slide_id):
            raise NotInResults(f"no slide {slide_id!r} in {self.out}")
        return found

    def config(self) -> PipelineConfig:
        """Return the configuration of the run."""
        return PipelineConfig.model_validate(self.report.config)

    def folder(self, slide_id: str) -> Path:
        """Return the folder of a slide's results.

        Raises
        ------
        NotInResults
            If the run has no such slide, or the folder leads out of the results.
        """
        self.record(slide_id)
        return self._inside(self.out / slide_id)

    def slide_path(self, slide_id: str) -> Path:
        """Return the file of a slide, where it lies now."""
        path = Path(self.record(slide_id).path)
        return path if self._moved is None else self._moved / path.name

    def store(self, slide_id: str) -> PatchStore:
        """Open the patch store of a slide.

        Raises
        ------
        StoreError
            If there is none, or it is damaged.
        """
        return PatchStore.open(self._inside(self.folder(slide_id) / STORE_NAME))

    def has_store(self, slide_id: str) -> bool:
        """Whether the patches of a slide were kept."""
        return self._inside(self.folder(slide_id) / STORE_NAME).is_dir()

    def maps(self, slide_id: str) -> dict[str, MapFile]:
        """Find the maps of a slide: one per model that predicted it or says where it looked."""
        found: dict[str, MapFile] = {}
        folder = self.folder(slide_id)
        for kind, name in (("classes", PREDICTIONS_NAME), ("attention", ATTENTION_NAME)):
            for path in sorted(folder.glob(f"*/{name}")):
                if path.resolve().is_relative_to(self.out):
                    called = path.parent.name + ("" if kind == "classes" else " (attention)")
                    found[called] = MapFile(called, kind, path)
        return found

    def map(self, slide_id: str, name: str) -> MapFile:
        """Find one map of a slide.

        Raises
        ------
        NotInResults
            If there is none of this name.
        """
        found = self.maps(slide_id).get(name)
        if found is None:
            raise NotInResults(f"no map {name!r} of slide {slide_id!r}")
        return found

    @property
    def labels_option(self) -> tuple[str, ...]:
        """Options by which another command finds the same labels."""
        return () if self._labels is None else ("--labels", str(self._labels))

    def labels_path(self, slide_id: str) -> Path:
        """Return the file that labels of a slide are kept in."""
        if self._labels is None:
            return self._inside(self.folder(slide_id) / LABELS_NAME)
        if self._labels.is_file():
            return self._only_file(slide_id, self._labels)
        self.record(slide_id)
        return self._labels / f"{slide_id}.geojson"

    def _inside(self, path: Path) -> Path:
        """Return a path as it is, if no link in it leads out of the results."""
        if not path.resolve().is_relative_to(self.out):
            raise NotInResults(f"{path} leads out of {self.out}")
        return path

    def _only_file(self, slide_id: str, file: Path) -> Path:
        """Return a file that was named itself, if it can only be meant for this slide."""
        names = list(self.records())
        if names == [slide_id] or file.stem == slide_id:
            return file
        if file.stem in names:
            return self._inside(self.folder(slide_id) / LABELS_NAME)
        raise ConfigError(
            f"{file} may belong to any of the {len(names)} slides of {self.out}; name it after its "
            "slide, or give a folder of <slide_id>.geojson"
        )

    def _refresh(self) -> None:
        """Read the report again if it changed."""
        path = self.out / RECORD_NAME
        try:
            state = path.stat()
        except OSError as error:
            raise ReportError(
                f"there is no {RECORD_NAME} in {self.out}; make one with 'wsi-pipeline run "
                f"SLIDE... --out {self.out}' or 'wsi-pipeline preprocess'"
            ) from error
        seen = (state.st_mtime_ns, state.st_size)
        with self._lock:
            if seen != self._seen:
                self._report = RunReport.read(path)
                self._records = _by_slide(self._report.outcomes)
                self._seen = seen


def is_plain(slide_id: str) -> bool:
    """Whether an id that a record has is a name, and no path: a record may be a stranger's."""
    return slide_id not in ("", "..") and Path(slide_id).name == slide_id


def _by_slide(outcomes: Iterable[SlideOutcome]) -> dict[str, SlideOutcome]:
    """Choose one record per slide, of those of its models: one that is done, if there is any."""
    chosen: dict[str, SlideOutcome] = {}
    for outcome in outcomes:
        known = chosen.setdefault(outcome.slide_id, outcome)
        if known.status is not Status.DONE and outcome.status is Status.DONE:
            chosen[outcome.slide_id] = outcome
    return chosen
