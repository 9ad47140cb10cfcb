"""What tests know of the slides they use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsi_pipeline.synthetic import SyntheticTruth


@dataclass(frozen=True)
class KnownSlide:
    """A synthetic slide and its truth."""

    path: Path
    truth: SyntheticTruth
