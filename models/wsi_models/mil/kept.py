"""What a run had trained already -> taken up again by a run that goes on after it was stopped.

Each fold depends on nothing but recipe and bags, and the epochs of a fold on nothing but the state
they left, so that a run that takes them up gives, bit for bit on a CPU, what one without
interruption gives.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_models.checkpoint import load_checkpoint, save_checkpoint
from wsi_models.errors import TrainingError
from wsi_models.mil.epochs import Fitted, NotSaved, Progress, Saved
from wsi_models.mil.heads import build_head

if TYPE_CHECKING:
    from wsi_models.mil.bags import Bags
    from wsi_models.mil.config import MilRecipe

FOLDER = "unfinished"

FIRST_SECONDS = 0.25
"""A training shorter than this is done anew."""

REST = 20
"""How many times as long as it took to save is trained before the next time."""

logger = logging.getLogger(__name__)


class Kept:
    """The parts of one run, in its folder until the run is complete.

    Parameters
    ----------
    out : Path
        Folder of the run.
    recipe : MilRecipe
        What is done.
    bags : Bags
        The slides.
    known : str
        What else decides the models.
    """

    def __init__(self, out: Path, recipe: MilRecipe, bags: Bags, known: str = "") -> None:
        self._folder, self._recipe, self._bags = out / FOLDER, recipe, bags
        decides = (
            recipe.model_dump_json(), bags.slide_ids, bags.label.tolist(), bags.patient,
            bags.classes, bags.feature_count, bags.encoder, bags.content, known,
        )  # fmt: skip
        self._identity = hashlib.sha256(repr(decides).encode()).hexdigest()

    def fit(self, name: str, work: Callable[[Saved], Fitted], progress: Progress) -> Fitted:
        """Take up a part where it stands: finished, begun or not.

        Parts of another recipe or of other slides are done anew.

        Parameters
        ----------
        name : str
            Of the part.
        work : callable
            Does it, or goes on with it.
        progress : Progress
            Told of its epochs where it was done before.
        """
        part = _Part(self._folder / f"{name}.ckpt", self._identity)
        done = part.read("fitted")
        if done is not None:
            progress.advance(self._recipe.train.epochs)
            return self._restore(done)
        fitted = work(part)
        state = {
            "head": fitted.head.state_dict(),
            "threshold": fitted.threshold,
            "best_epoch": fitted.best_epoch,
            "history": fitted.history,
        }
        part.write("fitted", state)
        return fitted

    def forget(self) -> None:
        """Remove what was kept, once the run is complete."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _restore(self, state: dict[str, Any]) -> Fitted:
        bags = self._bags
        head = build_head(self._recipe.model, bags.feature_count, len(bags.classes))
        head.load_state_dict(state.pop("head"))
        return Fitted(head=head.eval(), **state)


class NotKept:
    """Keeps nothing: every part is done."""

    def fit(self, name: str, work: Callable[[Saved], Fitted], progress: Progress) -> Fitted:
        """Do a part."""
        return work(NotSaved())


class _Part:
    """The file of a part: where its training stands, or what it gave."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._next = time.monotonic() + FIRST_SECONDS

    def read(self, kind: str) -> dict[str, Any] | None:
        """Return a state of this kind, if that is what the file holds."""
        if not self._path.exists():
            return None
        try:
            found = load_checkpoint(self._path)
        except TrainingError as error:
            logger.warning("%s, which is done now", error)
            return None
        same = found.get("identity") == self._identity and found.get("kind") == kind
        return found["state"] if same else None

    def write(self, kind: str, state: dict[str, Any]) -> None:
        """Put a state in the place of what the file holds."""
        save_checkpoint(self._path, {"identity": self._identity, "kind": kind, "state": state})

    def load(self) -> dict[str, Any] | None:
        """Return where the training stands."""
        return self.read("begun")

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep where it stands, so seldom that it costs little."""
        began = time.monotonic()
        if began < self._next:
            return
        self.write("begun", state())
        now = time.monotonic()
        self._next = now + REST * (now - began)
