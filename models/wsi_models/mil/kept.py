"""Heads that were trained already -> taken up again by a run that goes on after it was stopped.

Each fold depends on nothing but recipe and bags, so that a run that takes up finished folds gives,
bit for bit on a CPU, what one without interruption gives.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_models.checkpoint import load_checkpoint, save_checkpoint
from wsi_models.mil.heads import build_head
from wsi_models.mil.train import Fitted

if TYPE_CHECKING:
    from wsi_models.mil.bags import Bags
    from wsi_models.mil.config import MilRecipe

FOLDER = "unfinished"


class Kept:
    """The finished parts of one run, in its folder until the run is complete.

    Parameters
    ----------
    out : Path
        Folder of the run.
    recipe : MilRecipe
        What is done.
    bags : Bags
        The slides.
    """

    def __init__(self, out: Path, recipe: MilRecipe, bags: Bags) -> None:
        self._folder, self._recipe, self._bags = out / FOLDER, recipe, bags
        known = (recipe.model_dump_json(), bags.slide_ids, bags.label.tolist(), bags.patient)
        self._identity = hashlib.sha256(repr(known).encode()).hexdigest()

    def fit(self, name: str, work: Callable[[], Fitted], skip: Callable[[], None]) -> Fitted:
        """Take up a part that is finished, or do it and keep it.

        Parts of another recipe or of other slides are done anew.

        Parameters
        ----------
        name : str
            Of the part.
        work : callable
            Does it.
        skip : callable
            Called instead where it was done before.
        """
        path = self._folder / f"{name}.ckpt"
        if path.exists():
            state = load_checkpoint(path)
            if state.pop("identity") == self._identity:
                skip()
                return self._restore(state)
        fitted = work()
        state = {
            "identity": self._identity,
            "head": fitted.head.state_dict(),
            "threshold": fitted.threshold,
            "best_epoch": fitted.best_epoch,
            "history": fitted.history,
        }
        save_checkpoint(path, state)
        return fitted

    def forget(self) -> None:
        """Remove what was kept, once the run is complete."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _restore(self, state: dict[str, object]) -> Fitted:
        bags = self._bags
        head = build_head(self._recipe.model, bags.feature_count, len(bags.classes))
        head.load_state_dict(state.pop("head"))  # type: ignore[arg-type] # as save_checkpoint had it
        return Fitted(head=head.eval(), **state)  # type: ignore[arg-type]
