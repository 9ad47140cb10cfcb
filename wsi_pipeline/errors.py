"""The errors of the pipeline: one tree, each saying what happened, with which value, what to do.

WsiPipelineError
 ├─ SlideError                     one slide cannot be processed; others go on
 │   ├─ UnsupportedSlideError         no reader opens the file, or it is not a brightfield slide
 │   ├─ SlideReadError (OSError)      the file opens but its pixels cannot be read
 │   ├─ MissingMppError               no source states the resolution
 │   └─ AnisotropicMppError           x and y resolutions differ too much
 ├─ StainEstimationError           no stain matrix may be derived from these pixels
 ├─ AnnotationError                an annotation file is malformed
 ├─ IngestError                    labelled images cannot be made a patch store
 ├─ StoreError
 │   ├─ StoreNotFoundError (FileNotFoundError)
 │   ├─ StoreExistsError (FileExistsError)
 │   └─ StoreSchemaError           not a patch store, or of a schema this version cannot read
 ├─ PredictionsError               a file of predictions cannot be read
 ├─ ExportError                    a result cannot be exported, or its library is missing
 ├─ FeaturesError                  a file of features cannot be read or used
 ├─ ModelMismatchError             the model was trained for another mpp, patch size or stains
 ├─ ModelOutputError               the model gave values that are no numbers
 ├─ ReportError                    the report of a run cannot be read
 ├─ SchedulerError (ConnectionError) the Dask scheduler does not answer
 ├─ WorkerLostError                worker processes died of a slide
 ├─ OutputError (OSError)          results cannot be written or another process writes them
 └─ ConfigError                    a configuration value is unknown or out of range

Catch ``WsiPipelineError`` to survive anything that the input, not the program, did wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class WsiPipelineError(Exception):
    """Base of every error that the pipeline raises about its input."""


class SlideError(WsiPipelineError):
    """One slide cannot be processed.

    Parameters
    ----------
    message : str
        What happened, with which value, and what to do.
    path : Path or None
        The slide file.
    slide : dict or None
        What is known of the slide, as plain values, where it was opened before it was refused.
    """

    def __init__(
        self, message: str, *, path: Path | None = None, slide: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.slide = slide


class UnsupportedSlideError(SlideError):
    """No reader opens the file, or what it shows is not a brightfield H&E slide."""


class SlideReadError(SlideError, OSError):
    """The slide opened, but its pixels cannot be read (truncated or damaged file)."""


class MissingMppError(SlideError, ValueError):
    """No source states how many micrometres a pixel spans."""


class AnisotropicMppError(SlideError, ValueError):
    """The resolutions in x and y differ by more than the tolerance."""


class StainEstimationError(WsiPipelineError, ValueError):
    """The pixels do not support a stain matrix."""


class AnnotationError(WsiPipelineError, ValueError):
    """An annotation file is malformed.

    Parameters
    ----------
    message : str
        What is wrong, naming the element.
    path : Path or None
        The annotation file.
    """

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class IngestError(WsiPipelineError, ValueError):
    """Labelled images cannot be made a patch store."""


class StoreError(WsiPipelineError):
    """A patch store cannot be created, read or written."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no patch store at the given path."""


class StoreExistsError(StoreError, FileExistsError):
    """A different patch store already has this name."""


class StoreSchemaError(StoreError, ValueError):
    """The path is not a patch store, or its schema cannot be read by this version."""


class PredictionsError(WsiPipelineError, ValueError):
    """A file is not a table of predictions, or is damaged."""


class ExportError(WsiPipelineError, ValueError):
    """A result cannot be exported as asked, or the library that it takes is not installed."""


class FeaturesError(WsiPipelineError, ValueError):
    """A file is not one of features, is damaged, or does not belong to what it is used with."""


class ModelMismatchError(WsiPipelineError, ValueError):
    """The model was trained for other patches than the store holds."""


class ModelOutputError(WsiPipelineError, ArithmeticError):
    """The model gave values that are no numbers."""


class ReportError(WsiPipelineError):
    """The report of a run cannot be read."""


class SchedulerError(WsiPipelineError, ConnectionError):
    """The Dask scheduler does not answer."""


class WorkerLostError(WsiPipelineError):
    """Worker processes died while they worked on a slide."""


class OutputError(WsiPipelineError, OSError):
    """Results cannot be written, or another process is writing them."""


class ConfigError(WsiPipelineError, ValueError):
    """A configuration value is unknown, of the wrong type or out of range."""
