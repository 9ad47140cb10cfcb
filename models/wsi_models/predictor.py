"""A bundle or the folder of a run -> a module that classifies batches of stored patches.

For evaluation: ``wsi-pipeline run`` predicts slides by other means.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from wsi_models.bundle import CONFIG_FILE, BundleError, load_bundle
from wsi_models.checkpoint import load_checkpoint
from wsi_models.errors import TrainingError
from wsi_models.methods import Batch, MethodConfig, build_method
from wsi_models.recipe import read_saved_recipe
from wsi_models.train import BEST_FILE
from wsi_models.views import Normalisation, StainViewConfig, StainViews
