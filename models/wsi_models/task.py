"""What is trained, on what, how, where to, and how far it has come: values of the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wsi_models.listening import Listener, Silent

if TYPE_CHECKING:
    from wsi_models.methods.base import Method
    from wsi_models.sources import PatchSource
    from wsi_models.splits import Split


class TrainConfig(BaseModel):
    """How long and how exactly is trained; the defaults are those of CLASS-M."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(500, ge=1, description="Epochs at most.")
    iterations: int = Field(1000, ge=1, description="Steps of the optimizer per epoch.")
    seed: int = Field(0, ge=0, description="Decides weights at the start, batches and views.")
    patience: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a better one; never if not set."
    )
    evaluation_batch: int = Field(128, ge=1, description="Patches per forward pass in validation.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="Arithmetic of training and validation."
    )


@dataclass(slots=True)
class Progress:
    """Where a run stands; all of it is in the checkpoint.

    Attributes
    ----------
    epoch : int
        Epochs that are complete.
    best_epoch : int
        The epoch whose weights are kept; 0 before the first.
    best_accuracy : float or None
        Its balanced accuracy on the validation patches; None before the first and without labels.
    history : list of dict
        One row of plain values per epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_accuracy: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained, on what, how, where to.

    Attributes
    ----------
    method : Method
        The method, freshly built.
    source : PatchSource
        The patches.
    split : Split
        Their division.
    config : TrainConfig
        Length, seed and precision.
    out : Path
        Folder of checkpoints, logs and curves.
    listener : Listener
        Told how it goes, in the first process.
    """

    method: Method
    source: PatchSource
    split: Split
    config: TrainConfig
    out: Path
    listener: Listener = field(default_factory=Silent)
