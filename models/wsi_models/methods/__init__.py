"""The choice of a method -> the method, ready to train.

What a method is, is in :mod:`wsi_models.methods.base`; the loop that calls it lives elsewhere.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Field

from wsi_models.errors import TrainingError
from wsi_models.methods.base import UNKNOWN, Batch, Losses, Method
from wsi_models.methods.class_m_method import ClassM, ClassMConfig
from wsi_models.methods.clusiam import CluByol, CluByolConfig, CluSiam, CluSiamConfig
from wsi_models.methods.contrastive import (
    BarlowConfig,
    BarlowTwins,
    MoCo,
    MoCoConfig,
    SimClr,
    SimClrConfig,
    SwAV,
    SwavConfig,
)
from wsi_models.methods.declared import MethodChoices
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
    | CluByolConfig
    | SimClrConfig
    | BarlowConfig
    | MoCoConfig
    | SwavConfig,
    Field(discriminator="method"),
]
"""Which method of ours, and all that it can be told."""

OWN: tuple[type[MethodChoices], ...] = get_args(get_args(MethodConfig)[0])

ENTRY_POINTS = "wsi_models.methods"
"""Group of the entry points by which packages announce methods: each names a configuration."""

__all__ = [
    "S5CL",
    "UNKNOWN",
    "BarlowConfig",
    "BarlowTwins",
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
    "MethodChoices",
    "MethodConfig",
    "MixMatch",
    "MixMatchConfig",
    "MoCo",
    "MoCoConfig",
    "S5CLConfig",
    "SimClr",
    "SimClrConfig",
    "Supervised",
    "SupervisedConfig",
    "SwAV",
    "SwavConfig",
    "Tear",
    "TearConfig",
    "build_method",
    "method_configs",
]


def method_configs() -> dict[str, type[MethodChoices]]:
    """Find the configurations of all methods by name: ours, and those of installed packages.

    Raises
    ------
    TrainingError
        If two have one name, or one cannot be loaded.
    """
    found: dict[str, type[MethodChoices]] = {
        config.model_fields["method"].default: config for config in OWN
    }
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in found:
            raise TrainingError(
                f"two packages offer a method {entry.name!r}, one of them as {entry.value}; "
                "uninstall it, or rename it"
            )
        try:
            found[entry.name] = entry.load()
        except (ImportError, AttributeError) as error:
            raise TrainingError(
                f"the method {entry.name!r} cannot be loaded from {entry.value}: {error}"
            ) from error
    return found


def build_method(
    config: MethodChoices, classes: int, normalisation: Normalisation | None = None
) -> Method:
    """Build a method with its starting weights.

    Parameters
    ----------
    config : MethodChoices
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
    return config.build(classes, normalisation)
