"""Labels and groups of patches -> who trains, who selects, who tests, and who keeps a label.

Whole groups (patients, slides, prototypes) go to one part, so that no part knows another's
tissue; which groups belong together is decided by whoever names them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_files.whole import replace_atomically
from wsi_models.errors import TrainingError

Indices = NDArray[np.int64]
PARTS = ("train", "validation", "test")
UNKNOWN = -1
LEFT_OUT = -1


class SplitConfig(BaseModel):
    """How the patches are divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float = Field(0.2, ge=0, lt=1, description="Share of the patches that select.")
    test: float = Field(0.2, ge=0, lt=1, description="Share of the patches that test.")
    labels_per_class: int | None = Field(
        None,
        ge=1,
        description="Training labels kept per class; the other patches count as unlabelled.",
    )
    labelled_groups: int | None = Field(
        None,
        ge=1,
        description="Training groups that keep labels, drawn so that together they have every "
        "class; the patches of the others count as unlabelled. All if not given.",
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
        names, counts = np.unique(
            np.array([name for part in PARTS for name in self.groups[part]], dtype=str),
            return_counts=True,
        )
        _refuse_shared(names[counts > 1])
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
    shares = (1 - config.validation - config.test, config.validation, config.test)
    if shares[0] <= 0:
        raise TrainingError(
            f"validation {config.validation} and test {config.test} leave nothing to train on; "
            "lower them"
        )
    rng = _generator(config, seed)
    patches = _Patches.of(label, group)
    part = _assign(patches, shares, rng)
    return _split(patches, part, _keep_labels(patches, part, config, rng))


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
    values = _read(path)
    patches = _Patches.of(label, group)
    part = np.full(len(patches.names), LEFT_OUT)
    for index, name in enumerate(PARTS):
        wanted = getattr(values.groups, name)
        unknown = sorted(set(wanted) - set(patches.names.tolist()))
        if unknown:
            raise TrainingError(
                f"{path} names groups that the data lacks: {', '.join(unknown[:5])}; it was made "
                "for other stores"
            )
        taken = np.isin(patches.names, np.array(wanted, dtype=str))
        _refuse_shared(patches.names[taken & (part != LEFT_OUT)])
        part[taken] = index
    if values.labelled is None:
        kept = _keep_labels(patches, part, config, _generator(config, seed))
        return _split(patches, part, kept)
    kept = np.array(values.labelled, dtype=np.int64)
    if not np.isin(kept, _known(patches, part, "train")).all():
        raise TrainingError(f"{path} labels patches outside its training groups; make it anew")
    return _split(patches, part, kept)


def read_part(path: Path, label: Indices, group: Sequence[str], name: str) -> Indices:
    """Find the labelled patches of one part of a split that was saved.

    Parameters
    ----------
    path : Path
        The split.
    label, group
        As in :func:`split_by_group`; groups that the file names need not be there.
    name : str
        One of :data:`PARTS`.

    Returns
    -------
    ndarray of int64
        Indices; all patches of the part that have a label.

    Raises
    ------
    TrainingError
        If the file is malformed.
    """
    wanted = getattr(_read(path).groups, name)
    chosen = np.isin(np.asarray(group, dtype=str), np.array(wanted, dtype=str))
    return np.flatnonzero(chosen & (label >= 0)).astype(np.int64)


def _read(path: Path) -> _SplitFile:
    try:
        return _SplitFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(
            f"{path} is not a split ({error}); it needs groups.train, groups.validation and "
            "groups.test"
        ) from error


@dataclass(frozen=True, slots=True)
class _Patches:
    """Label (N,) and group of each patch; ``names[codes]`` are the groups."""

    label: Indices
    names: NDArray[np.str_]
    codes: NDArray[np.intp]

    @classmethod
    def of(cls, label: Indices, group: Sequence[str]) -> _Patches:
        names, codes = np.unique(np.asarray(group, dtype=str), return_inverse=True)
        return cls(np.asarray(label, dtype=np.int64), names, codes)


def _generator(config: SplitConfig, seed: int) -> np.random.Generator:
    return np.random.default_rng(seed if config.seed is None else config.seed)


def _assign(
    patches: _Patches, shares: tuple[float, float, float], rng: np.random.Generator
) -> Indices:
    """Give every group its part, class by class; shape of ``patches.names``."""
    label, codes = patches.label, patches.codes
    class_count = int(label.max(initial=0)) + 1
    counts = np.zeros((len(patches.names), class_count), dtype=np.int64)
    np.add.at(counts, (codes[label >= 0], label[label >= 0]), 1)
    sizes = counts.sum(axis=1)
    home = np.where(sizes > 0, counts.argmax(axis=1), UNKNOWN)
    part = np.zeros(len(sizes), dtype=np.int64)
    wanted = [(index, share) for index, share in enumerate(shares) if share > 0]
    for value in range(class_count):
        filled = dict.fromkeys(range(len(PARTS)), 0)
        for member in rng.permutation(np.flatnonzero(home == value)):
            part[member] = min(wanted, key=lambda item: filled[item[0]] / item[1])[0]
            filled[int(part[member])] += int(sizes[member])
    return part


def _known(patches: _Patches, part: Indices, name: str) -> Indices:
    """Return the patches of a part whose label is known."""
    chosen = (part[patches.codes] == PARTS.index(name)) & (patches.label >= 0)
    return np.flatnonzero(chosen).astype(np.int64)


def _keep_labels(
    patches: _Patches, part: Indices, config: SplitConfig, rng: np.random.Generator
) -> Indices:
    """Choose the training patches that keep their label, from as many groups as possible."""
    known = _known(patches, part, "train")
    if config.labelled_groups is not None:
        known = _within_groups(patches, known, config.labelled_groups, rng)
    count = config.labels_per_class
    if count is None:
        return known
    kept = [np.empty(0, dtype=np.int64)]
    for value in np.unique(patches.label[known]):
        candidates = rng.permutation(known[patches.label[known] == value])
        if len(candidates) < count:
            raise TrainingError(
                f"class {value} has {len(candidates)} training labels, {count} are asked for; "
                "lower labels_per_class or the shares of validation and test"
            )
        turn = _occurrence(patches.codes[candidates])
        kept.append(candidates[np.argsort(turn, kind="stable")[:count]])
    return np.sort(np.concatenate(kept))


def _within_groups(
    patches: _Patches, known: Indices, count: int, rng: np.random.Generator
) -> Indices:
    """Choose the labels of a few groups: those first, in random order, that add a class."""
    codes, label = patches.codes[known], patches.label[known]
    order = rng.permutation(np.unique(codes)).tolist()
    seen: set[int] = set()
    needed = []
    for group in order:
        found = set(label[codes == group].tolist())
        if not found <= seen:
            needed.append(group)
            seen |= found
    if len(needed) > count or len(order) < count:
        raise TrainingError(
            f"{count} groups with labels are asked for; there are {len(order)}, and "
            f"{len(needed)} are needed for every class; change labelled_groups"
        )
    chosen = needed + [group for group in order if group not in needed]
    return known[np.isin(codes, chosen[:count])]


def _occurrence(codes: NDArray[np.intp]) -> Indices:
    """Count how often each value came before: 0 for the first patch of every group."""
    seen: dict[int, int] = {}
    turns = np.empty(len(codes), dtype=np.int64)
    for position, code in enumerate(codes.tolist()):
        turns[position] = seen.get(code, 0)
        seen[code] = int(turns[position]) + 1
    return turns


def _split(patches: _Patches, part: Indices, labelled: Indices) -> Split:
    train = np.flatnonzero(part[patches.codes] == PARTS.index("train"))
    return Split(
        labelled=labelled,
        unlabelled=np.setdiff1d(train, labelled).astype(np.int64),
        validation=_known(patches, part, "validation"),
        test=_known(patches, part, "test"),
        groups={
            name: tuple(patches.names[part == index].tolist()) for index, name in enumerate(PARTS)
        },
    )


def _refuse_shared(names: NDArray[np.str_]) -> None:
    if len(names):
        raise TrainingError(
            f"groups in more than one part: {', '.join(names[:5])}; a patient must train, select "
            "or test"
        )
