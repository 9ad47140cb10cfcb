"""What came of each slide and of the whole run, as plain values that JSON can hold.

Records only: nothing here decides or draws anything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from wsi_pipeline.errors import ReportError
from wsi_pipeline.files import replace_atomically

RUN_SCHEMA = 1


class Status(StrEnum):
    """How a slide ended."""

    DONE = "done"
    EMPTY = "empty"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideOutcome:
    """What came of one slide.

    Attributes
    ----------
    slide_id, path : str
        The slide.
    status : Status
        ``EMPTY`` is a slide without a tile: a normal result.
    error : str or None
        Why it failed.
    slide : dict
        Size, mpp and its source, reader, vendor.
    stain : dict
        Verdict, reasons and matrix.
    funnel : dict of str to int
        Candidate tiles by reason.
    class_shares : dict of str to float
        Share of the kept tiles given to each class; empty before prediction.
    seconds : dict of str to float
        Time by stage.
    device : str
        Type of the torch device that predicted; empty before prediction.
    files : dict of str to str
        Results, relative to the run's folder.
    reused : bool
        Whether the results were found complete in the bucket, so that nothing was done.
    """

    slide_id: str
    path: str
    status: Status
    error: str | None = None
    slide: dict[str, Any] = field(default_factory=dict)
    stain: dict[str, Any] = field(default_factory=dict)
    funnel: dict[str, int] = field(default_factory=dict)
    class_shares: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ""
    files: dict[str, str] = field(default_factory=dict)
    reused: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make an outcome of the plain values of a report."""
        return cls(**{**values, "status": Status(values["status"])})


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
        One per slide that is done with, in the order of the slides.
    timing : dict
        Where the time went, and the verdict; empty until the last slide is done.
    """

    command: str
    started: str
    config: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, str]
    outcomes: tuple[SlideOutcome, ...]
    timing: dict[str, Any] = field(default_factory=dict)

    def count(self, status: Status) -> int:
        """Count the slides that ended in ``status``."""
        return sum(outcome.status is status for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the schema version first."""
        return {"schema": RUN_SCHEMA, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write ``run.json`` in one step, so that what exists is whole."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        with replace_atomically(path) as partial:
            partial.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
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
            outcomes = tuple(SlideOutcome.from_dict(outcome) for outcome in values["outcomes"])
            return cls(**{**values, "outcomes": outcomes})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ReportError(f"{path} is no report of a run ({error}); run again") from error
