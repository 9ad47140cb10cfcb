"""Labels and patients of slides -> parts that test in turn, without a patient in two.

The part that selects epochs is cut from what trains by :mod:`wsi_models.splits`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_models.errors import TrainingError
from wsi_models.splits import SplitConfig, split_by_group

Indices = NDArray[np.int64]


def fold_by_patient(label: Indices, patient: Sequence[str], count: int, *, seed: int) -> Indices:
    """Deal patients to folds so that every fold has its share of every class.

    Parameters
    ----------
    label : ndarray of shape (n,), int64
        Class of each slide.
    patient : sequence of n str
        Whose slide each is.
    count : int
        Number of folds.
    seed : int
        Other folds per seed.

    Returns
    -------
    ndarray of shape (n,), int64
        The fold in which each slide tests. Equal for slides of one patient.

    Raises
    ------
    TrainingError
        If there are fewer patients than folds, or all patients of a class are in one fold.

    Notes
    -----
    A patient counts for the most frequent class of its slides. The patients of a class are
    shuffled, and each goes to the fold with the fewest slides of that class, then of all.
    """
    names, codes = np.unique(np.asarray(patient, dtype=str), return_inverse=True)
    if len(names) < count:
        raise TrainingError(
            f"{len(names)} patients cannot make {count} folds; ask for at most {len(names)}"
        )
    slides = np.zeros((len(names), int(label.max()) + 1), dtype=np.int64)
    np.add.at(slides, (codes, label), 1)
    home = slides.argmax(axis=1)
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(names), dtype=np.int64)
    filled = np.zeros((count, slides.shape[1]), dtype=np.int64)
    for value in np.argsort(np.bincount(home), kind="stable"):
        for member in rng.permutation(np.flatnonzero(home == value)):
            fold[member] = np.lexsort((filled.sum(axis=1), filled[:, value]))[0]
            filled[fold[member]] += slides[member]
    _require_training(fold[codes], label)
    return np.asarray(fold[codes], dtype=np.int64)


def cut_validation(
    training: Indices, label: Indices, patient: Sequence[str], share: float, *, seed: int
) -> tuple[Indices, Indices]:
    """Cut the slides that select from those that train, by patient.

    Parameters
    ----------
    training : ndarray of int64
        Indices of the slides that may be used.
    label, patient
        Of all slides.
    share : float
        Share that selects; 0 leaves none.
    seed : int
        Another cut per seed.

    Returns
    -------
    training, validation : ndarray of int64
        Indices; disjoint in slides and in patients.

    Raises
    ------
    TrainingError
        If a class would be left without training slides.
    """
    if share == 0:
        return training, np.empty(0, dtype=np.int64)
    groups = np.asarray(patient, dtype=str)[training].tolist()
    config = SplitConfig(validation=share, test=0)
    split = split_by_group(label[training], groups, config, seed=seed)
    lost = np.setdiff1d(label[training], label[training[split.labelled]])
    if len(lost):
        raise TrainingError(
            f"class {lost[0]} has too few patients to train and to select; set validation to 0"
        )
    return training[split.labelled], training[split.validation]


def _require_training(fold: Indices, label: Indices) -> None:
    for value in np.unique(label):
        folds = np.unique(fold[label == value])
        if len(folds) == 1:
            raise TrainingError(
                f"all slides of class {value} test in one fold, so that nothing of it would "
                "train; it needs slides of at least two patients"
            )
