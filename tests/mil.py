"""Bags whose truth is known, for the tests of multiple-instance learning."""

from __future__ import annotations

import numpy as np
from wsi_models.mil.bags import Bags

FEATURES = 6
MARK = 0
"""The feature that marks an instance."""


def make_bags(
    count: int = 40,
    patients: int = 20,
    classes: tuple[str, ...] = ("normal", "tumour"),
    seed: int = 0,
) -> tuple[Bags, dict[str, int]]:
    """Make bags that are positive if, and only if, they hold a marked instance.

    Of more than two classes, class c is marked in feature c - 1.

    Returns
    -------
    Bags
        The bags; patient ``p`` has the slides ``p``, ``p + patients``, ...
    dict of str to int
        The marked instance of each positive bag.
    """
    rng = np.random.default_rng(seed)
    features, marked = {}, {}
    label = np.array([(index % patients) % len(classes) for index in range(count)])
    for index in range(count):
        name = f"slide-{index}"
        bag = rng.normal(size=(int(rng.integers(8, 20)), FEATURES)).astype(np.float32)
        if label[index]:
            marked[name] = int(rng.integers(len(bag)))
            bag[marked[name], MARK + label[index] - 1] = 8.0
        features[name] = bag
    bags = Bags(
        slide_ids=tuple(features),
        label=label.astype(np.int64),
        patient=tuple(f"patient-{index % patients}" for index in range(count)),
        classes=classes,
        feature_count=FEATURES,
        load=features.__getitem__,
    )
    return bags, marked


class Steps:
    """Counts what a piece of work reports."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, what: str, total: int) -> None:
        assert what
        self.total += total

    def advance(self, steps: int = 1) -> None:
        self.done += steps


class Stopping(Steps):
    """Stops a run after so many epochs, as a person or a scheduler would."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        if self.done >= self._after:
            raise KeyboardInterrupt
