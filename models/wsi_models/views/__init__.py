"""Stored RGB patches -> the randomised or plain input of a network, batched and on the device."""

from __future__ import annotations

from wsi_models.views.config import RgbViewConfig, StainViewConfig
from wsi_models.views.inputs import Normalisation, RgbViews, StainViews, measure_normalisation

__all__ = [
    "Normalisation",
    "RgbViewConfig",
    "RgbViews",
    "StainViewConfig",
    "StainViews",
    "measure_normalisation",
]
