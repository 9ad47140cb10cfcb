"""What came of each slide and of the whole run, as plain values that JSON can hold.

Records only: nothing here decides or draws anything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wsi_pipeline.errors import ReportError, SlideError, WsiPipelineError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.run.marks import Mark, Stage

RUN_SCHEMA = 1

OF_PATCHES = frozenset({"patches", "qc", "qc_small"})
"""Kinds of files that a slide has whatever the model."""

STAGES_OF_PATCHES = (Stage.STORE.value, Stage.QC.value)


class Status(StrEnum):
    """How a slide ended."""

    DONE = "done"
    EMPTY = "empty"
    FAILED = "failed"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideOutcome:
    """What came of one slide, or of one slide and model: one record of the folder.

    Attributes
    ----------
    slide_id, path : str
        The slide.
    status : Status
        ``EMPTY`` is a slide without a tile: a normal result. ``UNFINISHED`` has steps before it,
        which the same command takes.
    model : str
        Name of the model; empty in the record of the slide's patches alone.
    error : str or None
        Why it failed.
    kind : str
        Name of the error; empty unless it failed.
    hint : str
        What to do about an error whose message does not say it.
    slide : dict
        Size, mpp and its source, reader, vendor.
    stain : dict
        Verdict, reasons and matrix.
    funnel : dict of str to int
        Candidate tiles by reason.
    doubts : tuple of str
        What a person should look at before trusting the slide.
    tissue_mm2 : float
        Area of tissue on the slide.
    class_shares : dict of str to float
        Share of each class in the tissue that has a class; empty before prediction.
    pieces : int
        Pieces of tissue; 0 before prediction.
    labels : dict of str to int
        Tiles of each annotated class, in the order of the label map; empty without annotations.
    patient : str
        Where it is known.
    tile_mm2 : float
        Area of one step of the lattice of tiles.
    classified_mm2 : float
        Area of the tissue that has a class.
    class_colors : dict of str to str
        Colour of each class, ``#rrggbb``.
    seconds : dict of str to float
        Time by stage.
    device : str
        Type of the torch device that predicted; empty before prediction.
    files : dict of str to str
        Results by kind, relative to the run's folder.
    stages : dict of str to Mark
        What each :class:`~wsi_pipeline.run.marks.Stage` was made from and what it left.
    ended : str
        UTC time, ISO 8601.
    run : str
        Name of the run that made it, as :attr:`RunReport.run`.
    reused : bool
        Whether all of it was found complete, so that nothing was done.
    """

    slide_id: str
    path: str
    status: Status
    model: str = ""
    error: str | None = None
    kind: str = ""
    hint: str = ""
    slide: dict[str, Any] = field(default_factory=dict)
    stain: dict[str, Any] = field(default_factory=dict)
    funnel: dict[str, int] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    tissue_mm2: float = 0.0
    class_shares: dict[str, float] = field(default_factory=dict)
    classified_mm2: float = 0.0
    pieces: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    patient: str = ""
    tile_mm2: float = 0.0
    class_colors: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ""
    files: dict[str, str] = field(default_factory=dict)
    stages: dict[str, Mark] = field(default_factory=dict)
    ended: str = ""
    run: str = ""
    reused: bool = False

    @classmethod
    def from_json(cls, text: bytes) -> SlideOutcome:
        """Make an outcome of its plain values in JSON.

        Raises
        ------
        ValueError
            If a value is missing or of another type.
        """
        return _outcomes().validate_json(text)

    def of_patches(self) -> SlideOutcome | None:
        """Return what the record of a slide and model says of the slide's patches, if any."""
        if not self.model or Stage.STORE not in self.stages or self.status is Status.FAILED:
            return None
        return replace(
            self,
            model="",
            class_shares={},
            classified_mm2=0.0,
            pieces=0,
            class_colors={},
            device="",
            files={kind: name for kind, name in self.files.items() if kind in OF_PATCHES},
            stages={name: self.stages[name] for name in STAGES_OF_PATCHES if name in self.stages},
        )

    def failed(self, error: Exception) -> SlideOutcome:
        """Return the record of a slide that failed here, with what its error knows of the slide."""
        known: dict[str, Any] = {}
        if isinstance(error, SlideError) and error.slide is not None:
            known = {"slide": error.slide, "funnel": {"kept": 0}}
        return replace(
            self,
            **known,
            status=Status.FAILED,
            error=_printable(str(error) or type(error).__name__),
            kind=type(error).__name__,
            hint=_hint(error),
        )


@cache
def _outcomes() -> TypeAdapter[SlideOutcome]:
    return TypeAdapter(SlideOutcome)


@cache
def _reports() -> TypeAdapter[RunReport]:
    return TypeAdapter(RunReport)


def _printable(text: str) -> str:
    """Show bytes of file names that are no text as escapes, so that every file can hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _hint(error: Exception) -> str:
    """Say what to do about errors that libraries raise; our own say it themselves."""
    if isinstance(error, WsiPipelineError):
        return ""
    if isinstance(error, MemoryError):
        return "give the run more memory, or fewer --workers and --slides-at-once"
    if isinstance(error, IsADirectoryError):
        return "a folder lies where a file belongs: remove it, then run again"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file lies where a folder belongs: remove it, then run again"
    if isinstance(error, OSError):
        return "check free space, rights and the connection of the disk; then run again"
    return "not foreseen: the log of the run has the traceback; the other slides are not affected"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What came of a run.

    Attributes
    ----------
    command : str
        What was asked for, as typed.
    started : str
        UTC time, ISO 8601.
    config : dict
        The resolved configuration.
    model : dict
        Name, classes, colours and fingerprint of the model; empty where none was used.
    versions : dict of str to str
        Packages the results depend on.
    outcomes : tuple of SlideOutcome
        One per slide and model that is done with: in what a run returns its own, in the order of
        its slides; in ``run.json`` all of the folder, sorted.
    timing : dict
        Where the time went, and the verdict; empty until the last slide is done.
    run : str
        Name of the run, unique in the folder.
    share : tuple of int
        Which part of how many it did.
    where : str
        Folder in which it was started, to which the names in ``command`` are relative.
    """

    command: str
    started: str
    config: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, str]
    outcomes: tuple[SlideOutcome, ...]
    timing: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    share: tuple[int, int] = (0, 1)
    where: str = ""

    def count(self, status: Status) -> int:
        """Count the slides that ended in ``status``."""
        return sum(outcome.status is status for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the schema version first."""
        return {"schema": RUN_SCHEMA, **asdict(self)}

    def to_json(self) -> str:
        """Return :meth:`to_dict` as text; thousands of slides take a tenth of a second."""
        first = f'{{\n  "schema": {RUN_SCHEMA},'
        return first + _reports().dump_json(self, indent=2).decode().removeprefix("{") + "\n"

    def write(self, path: Path) -> None:
        """Write ``run.json`` in one step, so that what exists is whole."""
        with replace_atomically(path) as partial:
            partial.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunReport:
        """Make a report of plain values.

        Raises
        ------
        ValueError
            If a value is missing or of another type.
        """
        return _reports().validate_python(values)

    @classmethod
    def read(cls, path: Path) -> RunReport:
        """Read what :meth:`write` wrote.

        Raises
        ------
        ReportError
            If the file is no report, or one of another schema.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("schema") != RUN_SCHEMA:
                raise ReportError(f"{path} is a report of another version; run again")
            return cls.from_dict(values)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReportError(f"{path} is no report of a run ({error}); run again") from error
