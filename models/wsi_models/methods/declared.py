"""What a method's choices declare, so that none who train, judge or publish ask which method it is.

The choices themselves are in the module of each method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from wsi_models.parts.choices import Choices
from wsi_models.views import RgbViewConfig, SiameseViewConfig, StainViewConfig

if TYPE_CHECKING:
    from wsi_models.methods.base import Method
    from wsi_models.networks.description import NetworkConfig
    from wsi_models.parts.backbone import EncoderConfig
    from wsi_models.views import Normalisation
    from wsi_models.views.inputs import Patches


class MethodChoices(Choices, ABC):
    """The choices of a method: how it is told apart, what it needs, and what it makes.

    Attributes
    ----------
    needs_labels : bool
        Whether it can do without any labelled patch.
    """

    needs_labels: ClassVar[bool] = True

    method: str = Field(description="Which method.")
    views: StainViewConfig | RgbViewConfig | SiameseViewConfig = Field(
        description="What the network sees."
    )

    if TYPE_CHECKING:

        @property
        def encoder(self) -> EncoderConfig:
            """The encoder, which every method has among its choices."""

    @abstractmethod
    def network(self) -> NetworkConfig:
        """Describe the network that is trained, as a bundle keeps it."""

    @abstractmethod
    def build(self, classes: int, normalisation: Normalisation | None) -> Method:
        """Build the method with its starting weights; see :func:`~wsi_models.methods.build_method`.

        Parameters
        ----------
        classes : int
            Number C of classes of the labels.
        normalisation : Normalisation or None
            What :meth:`measure` gave.
        """

    def measure(self, patches: Iterable[Patches]) -> Normalisation | None:
        """Measure what the input is normalised by on training patches, if it has to be.

        Parameters
        ----------
        patches : iterable of Patches
            Batches; none is taken where nothing is measured.

        Returns
        -------
        Normalisation or None
            None where the choices themselves say it, as those of RGB do.
        """
        return None

    def statistics(
        self, normalisation: Normalisation | None
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and deviation of each channel, for a bundle."""
        if normalisation is not None:
            return normalisation.mean, normalisation.std
        match self.views:
            case RgbViewConfig() | SiameseViewConfig() as stated:
                return stated.mean, stated.std
            case _:
                raise ValueError("stains are normalised by what was measured, and nothing was")

    @property
    def is_servable(self) -> bool:
        """Whether patch stores of slides hold what the network sees."""
        return True

    def describe_loss(self) -> str:
        """Say in words what is minimised."""
        return f"that of the method {self.method}"
