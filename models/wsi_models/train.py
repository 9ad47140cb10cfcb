"""A method, labelled patches and a division of them -> the best weights found, and how it went.

One loop for every method: it draws batches, steps, validates, logs and checkpoints. What is learnt
from a batch is the method's business; data, recipe and the finished model are those of others.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

from wsi_models.atomic import replace_atomically
from wsi_models.checkpoint import load_checkpoint, save_checkpoint
from wsi_models.curves import draw_curves
from wsi_models.errors import TrainingError
from wsi_models.evaluate import balanced_accuracy, predict_logits
from wsi_models.methods.base import UNKNOWN, Batch, Method
from wsi_models.samplers import BalancedBatches, Drawing, PermutedBatches
from wsi_models.splits import Split

logger = logging.getLogger(__name__)
