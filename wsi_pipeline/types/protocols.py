"""What functions ask of their callers: records of a slide, and somebody to tell of progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wsi_pipeline.types.slide import SlideInfo, TissueMask
    from wsi_pipeline.types.stains import StainEstimate


class SlideRecords(Protocol):
    """What is known of a slide and its tiles beside their pixels, as pictures and reports need it.

    :class:`~wsi_pipeline.store.PatchStore` is one.
    """

    def __len__(self) -> int:
        """Count the patches."""

    @property
    def slide(self) -> SlideInfo:
        """The slide."""

    @property
    def stain(self) -> StainEstimate:
        """Its stain matrix and the evidence for it."""

    @property
    def mask(self) -> TissueMask:
        """Tissue and artefacts."""

    @property
    def areas(self) -> NDArray[np.uint8]:
        """:class:`Area` of each mask pixel, shape (h, w)."""

    @property
    def thumbnail(self) -> NDArray[np.uint8]:
        """The whole slide, RGB, shape (h, w, 3)."""

    @property
    def patch_px(self) -> int:
        """Side of a patch, px."""

    @property
    def mpp(self) -> float:
        """Resolution of the patches, um/px."""

    @property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners, level-0 px, shape (N, 2)."""

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""

    @property
    def pitch(self) -> float:
        """Distance between neighbouring tiles, level-0 px."""

    @property
    def tissue_fraction(self) -> NDArray[np.float32]:
        """Share of each tile that is tissue, shape (N,)."""

    @property
    def label(self) -> NDArray[np.int16]:
        """Index into :attr:`label_names`, shape (N,); -1 is unknown."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Classes; empty without labels."""

    @property
    def group(self) -> tuple[str, ...]:
        """Patient or prototype of each patch; the slide itself where none is known."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the slide file."""

    @property
    def config_hash(self) -> str:
        """Hash of what decided the patches."""

    def funnel(self) -> dict[str, int]:
        """Count the candidate tiles by reason, ``kept`` first."""


class Progress(Protocol):
    """Told how far a long piece of work is; the command line draws it."""

    def start(self, what: str, total: int) -> None:
        """Announce ``total`` steps of ``what``."""

    def advance(self, steps: int = 1) -> None:
        """Report that ``steps`` more are done."""


class NoProgress:
    """Says nothing: the default of every function that takes a :class:`Progress`."""

    def start(self, what: str, total: int) -> None:
        """Ignore the announcement."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the step."""
