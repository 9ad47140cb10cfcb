"""What can be wrong with a training run besides the program: one error for all of it.

Bundles have their own, :class:`wsi_models.bundle.BundleError`.
"""

from __future__ import annotations


class TrainingError(ValueError):
    """The data, the recipe or a checkpoint do not allow what is asked for."""
