"""Stored RGB patches -> the randomised or plain input of a network, batched and on the device."""

from __future__ import annotations

from wsi_models.views.config import (
    RgbViewConfig,
    SiameseViewConfig,
    StainViewConfig,
    TwinViewConfig,
)
from wsi_models.views.inputs import Normalisation, RgbViews, StainViews, measure_normalisation
from wsi_models.views.siamese import SiameseViews
from wsi_models.views.twins import TwinViews

__all__ = [
    "Normalisation",
    "RgbViewConfig",
    "RgbViews",
    "SiameseViewConfig",
    "SiameseViews",
    "StainViewConfig",
    "StainViews",
    "TwinViewConfig",
    "TwinViews",
    "measure_normalisation",
]
