"""Labels and groups of patches -> who trains, who selects, who tests, and who keeps a label.

Whole groups (patients, slides, prototypes) go to one part, so that no part knows another's
tissue; which groups belong together is decided by whoever names them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_models.atomic import replace_atomically
from wsi_models.errors import TrainingError

logger = logging.getLogger(__name__)

Indices = NDArray[np.int64]
PARTS = ("train", "validation", "test")


class SplitConfig(BaseModel):
    """How the patches are divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float = Field(0.2, ge=0, lt=1, description="Share of the patches that select.")
    test: float = Field(0.2, ge=0, lt=1, description="Share of the patches that test.")
    labels_per_class: int | None = Field(
        None, ge=1, description="Training labels kept per class; the other patches count as unlabelled."
    )
    seed: int | None = Field(
        None, ge=0, description="Another division per seed; the seed of the training if not given."
    )


class _GroupsOfParts(BaseModel):
    model_config = ConfigDict(extra="forbid")

    train: list[str]
    validation: list[str]
    test: list[str]


class _SplitFile(BaseModel):
    """What a file of a split holds; ``labelled`` may be left out in one written by hand."""

    model_config = ConfigDict(extra="ignore")

    groups: _GroupsOfParts
    labelled: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The division of N patches; disjoint in patches and in groups.

    Attributes
    ----------
    labelled : ndarray of int64
        Training patches whose label is used.
    unlabelled : ndarray of int64
        Training patches whose label is unknown or withheld.
    validation, test : ndarray of int64
        Labelled patches of the other parts.
    groups : dict of str to tuple of str
        Names of the groups of each of :data:`PARTS`, sorted.
    """

    labelled: Indices
    unlabelled: Indices
    validation: Indices
    test: Indices
    groups: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        names = [name for part in PARTS for name in self.groups[part]]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise TrainingError(
                f"groups in more than one part: {', '.join(repeated[:5])}; a patient must train, "
                "select or test"
            )
        every = np.concatenate([self.labelled, self.unlabelled, self.validation, self.test])
        if len(np.unique(every)) != len(every):
            raise TrainingError("a patch is in more than one part of the split")

    def save(self, path: Path) -> None:
        """Write the split as JSON: groups by part, the labelled patches, and counts to read."""
        values: dict[str, Any] = {
            "groups": {part: list(self.groups[part]) for part in PARTS},
            "patches": {
                "labelled": len(self.labelled),
                "unlabelled": len(self.unlabelled),
                "validation": len(self.validation),
                "test": len(self.test),
            },
            "labelled": self.labelled.tolist(),
        }
        with replace_atomically(path) as partial:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def split_by_group(
    label: Indices, group: Sequence[str], config: SplitConfig, *, seed: int
) -> Split:
    """Divide patches so that every class is in every part and no group in two.

    Parameters
    ----------
    label : ndarray of shape (N,), int
        Class of each patch, -1 where unknown.
    group : sequence of N str
        Patient, slide or prototype of each patch.
    config : SplitConfig
        Shares and number of labels; ``config.seed`` beats ``seed``.
    seed : int
        Another division per seed.

    Returns
    -------
    Split
        The division. Groups without any label train.

    Raises
    ------
    TrainingError
        If the shares leave nothing to train on, or a class has too few labels.

    Notes
    -----
    Each group counts for its most frequent class. The groups of a class are shuffled and given,
    one after the other, to the part that lacks most of its share.
    """
    rng = np.random.default_rng(seed if config.seed is None else config.seed)
    shares = (1 - config.validation - config.test, config.validation, config.test)
    if shares[0] <= 0:
        raise TrainingError(
            f"validation {config.validation} and test {config.test} leave nothing to train on; "
            "lower them"
        )
    names, codes = np.unique(np.asarray(group, dtype=str), return_inverse=True)
    part = _assign(np.asarray(label), codes, len(names), shares, rng)
    groups = {
        name: tuple(str(value) for value in names[part == index])
        for index, name in enumerate(PARTS)
    }
    return _divide(label, codes, part[codes], groups, config.labels_per_class, rng)


def load_split(
    path: Path, label: Indices, group: Sequence[str], config: SplitConfig, *, seed: int
) -> Split:
    """Read a split that was saved or written by hand.

    Parameters
    ----------
    path : Path
        JSON with ``groups`` (lists ``train``, ``validation``, ``test`` of group names) and, if the
        labelled patches are to be the same, ``labelled`` (indices).
    label, group, config, seed
        As in :func:`split_by_group`; the shares are not used.

    Returns
    -------
    Split
        The division. Patches of groups that the file does not name are left out.

    Raises
    ------
    TrainingError
        If the file is malformed, or names groups that the data does not have.
    """
    try:
        values = _SplitFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(
            f"{path} is not a split ({error}); it needs groups.train, groups.validation and "
            "groups.test"
        ) from error
    groups = {part: tuple(sorted(getattr(values.groups, part))) for part in PARTS}
    names = np.asarray(group, dtype=str)
    unknown = sorted(set().union(*groups.values()) - set(names.tolist()))
    if unknown:
        raise TrainingError(
            f"{path} names groups that the data lacks: {', '.join(unknown[:5])}; it was made for "
            "other stores"
        )
    part = np.full(len(names), -1)
    for index, name in enumerate(PARTS):
        part[np.isin(names, np.array(groups[name], dtype=str))] = index
    if values.labelled is None:
        rng = np.random.default_rng(seed if config.seed is None else config.seed)
        return _with_labels(label, names, part, groups, config.labels_per_class, rng)
    labelled = np.array(values.labelled, dtype=np.int64)
    if len(labelled) and (labelled.max() >= len(label) or (part[labelled] != 0).any()):
        raise TrainingError(f"{path} labels patches outside its training groups; make it anew")
    return _collect(label, part, groups, labelled)


def _assign(
    label: Indices,
    codes: NDArray[np.intp],
    group_count: int,
    shares: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Give every group its part, class by class; shape (group_count,)."""
    class_count = int(label.max(initial=-1)) + 1
    counts = np.zeros((group_count, max(1, class_count)), dtype=np.int64)
    np.add.at(counts, (codes[label >= 0], label[label >= 0]), 1)
    sizes = counts.sum(axis=1)
    home = np.where(sizes > 0, counts.argmax(axis=1), -1)
    part = np.zeros(group_count, dtype=np.int64)
    open_parts = [index for index, share in enumerate(shares) if share > 0]
    for value in range(class_count):
        filled = np.zeros(len(PARTS))
        for member in rng.permutation(np.flatnonzero(home == value)):
            target = min(open_parts, key=lambda index: filled[index] / shares[index])
            part[member] = target
            filled[target] += sizes[member]
    return part


def _keep_labels(
    label: Indices,
    codes: NDArray[np.intp],
    members: NDArray[np.intp],
    count: int,
    rng: np.random.Generator,
) -> Indices:
    """Choose ``count`` patches per class among ``members``, from as many groups as possible."""
    kept = []
    for value in np.unique(label[members]):
        candidates = rng.permutation(members[label[members] == value])
        if len(candidates) < count:
            raise TrainingError(
                f"class {value} has {len(candidates)} training labels, {count} are asked for; "
                "lower labels_per_class or the shares of validation and test"
            )
        kept.append(candidates[np.argsort(_turn(codes[candidates]), kind="stable")[:count]])
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *kept]))


def _turn(codes: NDArray[np.intp]) -> NDArray[np.int64]:
    """Count how often each value came before: 0 for the first patch of every group."""
    seen: dict[int, int] = {}
    turns = np.empty(len(codes), dtype=np.int64)
    for position, code in enumerate(codes.tolist()):
        turns[position] = seen.get(code, 0)
        seen[code] = turns[position] + 1
    return turns


def _collect(
    label: Indices, part: Indices, groups: dict[str, tuple[str, ...]], labelled: Indices
) -> Split:
    train = np.flatnonzero(part == PARTS.index("train"))
    known = label >= 0
    return Split(
        labelled=labelled.astype(np.int64),
        unlabelled=np.setdiff1d(train, labelled).astype(np.int64),
        validation=np.flatnonzero((part == PARTS.index("validation")) & known).astype(np.int64),
        test=np.flatnonzero((part == PARTS.index("test")) & known).astype(np.int64),
        groups=groups,
    )
