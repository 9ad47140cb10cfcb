"""The choice of a method -> the method, ready to train.

What a method is, is in :mod:`wsi_models.methods.base`; the loop that calls it lives elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from wsi_models.methods.base import UNKNOWN, Batch, Losses, Method
from wsi_models.methods.class_m_method import ClassM, ClassMConfig
from wsi_models.methods.clusiam import CluByol, CluByolConfig, CluSiam, CluSiamConfig
from wsi_models.methods.fixmatch import FixMatch, FixMatchConfig
from wsi_models.methods.mixmatch import MixMatch, MixMatchConfig
from wsi_models.methods.s5cl import S5CL, S5CLConfig
from wsi_models.methods.supervised import Supervised, SupervisedConfig
from wsi_models.methods.tear import Tear, TearConfig

if TYPE_CHECKING:
    from wsi_models.views import Normalisation

MethodConfig = Annotated[
    ClassMConfig
    | SupervisedConfig
    | FixMatchConfig
    | MixMatchConfig
    | S5CLConfig
    | TearConfig
    | CluSiamConfig
    | CluByolConfig,
    Field(discriminator="method"),
]
"""Which method, and all that it can be told."""

__all__ = [
    "S5CL",
    "UNKNOWN",
    "Batch",
    "ClassM",
    "ClassMConfig",
    "CluByol",
    "CluByolConfig",
    "CluSiam",
    "CluSiamConfig",
    "FixMatch",
    "FixMatchConfig",
    "Losses",
    "Method",
    "MethodConfig",
    "MixMatch",
    "MixMatchConfig",
    "S5CLConfig",
    "Supervised",
    "SupervisedConfig",
    "Tear",
    "TearConfig",
    "build_method",
]


def build_method(
    config: MethodConfig, classes: int, normalisation: Normalisation | None = None
) -> Method:
    """Build a method with its starting weights.

    Parameters
    ----------
    config : MethodConfig
        The choices.
    classes : int
        Number C of classes; methods without labels have a number of clusters instead.
    normalisation : Normalisation or None
        Of the training set, by :func:`wsi_models.views.measure_normalisation`; CLASS-M needs it,
        the methods on RGB have theirs in their configuration.

    Returns
    -------
    Method
        On the CPU. Random starting weights come from torch's global generator: seed it before.

    Raises
    ------
    ValueError
        If the batch sizes do not suit the classes, or CLASS-M gets no normalisation.
    WeightsError
        If pretrained weights cannot be had.
    """
    match config:
        case ClassMConfig():
            if normalisation is None:
                raise ValueError(
                    "class-m needs the normalisation of its training set; "
                    "measure it with measure_normalisation(batches, config.views)"
                )
            return ClassM(config, classes, normalisation)
        case SupervisedConfig():
            return Supervised(config, classes)
        case FixMatchConfig():
            return FixMatch(config, classes)
        case MixMatchConfig():
            return MixMatch(config, classes)
        case S5CLConfig():
            return S5CL(config, classes)
        case TearConfig():
            return Tear(config, classes)
        case CluSiamConfig():
            return CluSiam(config)
        case CluByolConfig():
            return CluByol(config)
