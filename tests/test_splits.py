"""Splits: disjoint in groups, complete, stratified, stored and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from wsi_models.errors import TrainingError
from wsi_models.splits import PARTS, Split, SplitConfig, load_split, read_part, split_by_group


def make_patches(
    groups: int = 24, size: int = 6, classes: int = 3
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Give each group one class and every sixth patch no label."""
    code = np.repeat(np.arange(groups), size)
    label = np.where(np.arange(len(code)) % size == 5, -1, code % classes)
    return label.astype(np.int64), tuple(f"patient-{value}" for value in code)


@given(
    seed=st.integers(0, 50),
    groups=st.integers(9, 30),
    per_class=st.one_of(st.none(), st.integers(1, 3)),
)
def test_groups_and_patches_are_in_one_part_each(
    seed: int, groups: int, per_class: int | None
) -> None:
    label, group = make_patches(groups)
    split = split_by_group(label, group, SplitConfig(labels_per_class=per_class), seed=seed)
    names = np.array(group)
    train = np.concatenate([split.labelled, split.unlabelled])
    tissue = [set(names[part]) for part in (train, split.validation, split.test)]
    assert sum(map(len, tissue)) == len(set().union(*tissue))
    assert sorted(name for part in PARTS for name in split.groups[part]) == sorted(set(group))
    assert (label[split.labelled] >= 0).all()
    assert (label[split.validation] >= 0).all()
    every = np.concatenate([train, split.validation, split.test])
    assert len(every) == len(set(every.tolist()))
    assert set(range(len(label))) - set(every.tolist()) <= set(np.flatnonzero(label < 0))
    if per_class is not None:
        assert np.bincount(label[split.labelled]).tolist() == [per_class] * 3
    for part in (split.labelled, split.validation, split.test):
        assert set(label[part]) == {0, 1, 2}


def test_shares_are_kept() -> None:
    label, group = make_patches(groups=300)
    split = split_by_group(label, group, SplitConfig(validation=0.1, test=0.3), seed=0)
    shares = [len(split.groups[part]) / 300 for part in PARTS]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.02)


def test_few_labels_come_from_many_groups() -> None:
    label, group = make_patches(groups=60)
    split = split_by_group(label, group, SplitConfig(labels_per_class=5), seed=2)
    assert len(set(np.array(group)[split.labelled])) == 15


def test_seeds_decide() -> None:
    label, group = make_patches()
    one, same, other = (
        split_by_group(label, group, SplitConfig(), seed=seed).groups for seed in (1, 1, 2)
    )
    assert one == same != other
    fixed = [split_by_group(label, group, SplitConfig(seed=9), seed=s).groups for s in (1, 2)]
    assert fixed[0] == fixed[1]


def test_groups_without_labels_train() -> None:
    label, group = make_patches()
    label[:12] = -1
    split = split_by_group(label, group, SplitConfig(), seed=0)
    assert {"patient-0", "patient-1"} <= set(split.groups["train"])
    assert set(range(12)) <= set(split.unlabelled.tolist())


def test_a_saved_split_is_read_back(tmp_path: Path) -> None:
    label, group = make_patches()
    config = SplitConfig(labels_per_class=4)
    split = split_by_group(label, group, config, seed=3)
    split.save(tmp_path / "split.json")
    back = load_split(tmp_path / "split.json", label, group, config, seed=77)
    assert back.groups == split.groups
    for part in ("labelled", "unlabelled", "validation", "test"):
        assert np.array_equal(getattr(back, part), getattr(split, part)), part
    assert np.array_equal(read_part(tmp_path / "split.json", label, group, "test"), split.test)


def test_a_split_by_hand_may_leave_groups_out(tmp_path: Path) -> None:
    label, group = make_patches(groups=4)
    path = tmp_path / "split.json"
    parts = {"train": ["patient-0"], "validation": ["patient-1"], "test": ["patient-3"]}
    path.write_text(json.dumps({"groups": parts}))
    split = load_split(path, label, group, SplitConfig(), seed=0)
    used = np.concatenate([split.labelled, split.unlabelled, split.validation, split.test])
    assert "patient-2" not in set(np.array(group)[used])
    assert split.labelled.tolist() == [0, 1, 2, 3, 4]
    assert split.unlabelled.tolist() == [5]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not a split"),
        ('{"groups": {"train": []}}', "not a split"),
        ('{"groups": {"train": ["x"], "validation": [], "test": []}}', "lacks: x"),
        (
            '{"groups": {"train": ["patient-0"], "validation": ["patient-0"], "test": []}}',
            "more than one part: patient-0",
        ),
        (
            '{"groups": {"train": ["patient-0"], "validation": [], "test": ["patient-1"]},'
            ' "labelled": [7]}',
            "outside its training groups",
        ),
    ],
)
def test_a_bad_split_is_refused(tmp_path: Path, content: str, match: str) -> None:
    label, group = make_patches(groups=4)
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(TrainingError, match=match):
        load_split(tmp_path / "split.json", label, group, SplitConfig(), seed=0)


def test_shared_groups_and_patches_are_refused() -> None:
    none = np.empty(0, dtype=np.int64)
    one = np.array([1])
    groups: dict[str, tuple[str, ...]] = {"train": ("a",), "validation": ("a",), "test": ()}
    with pytest.raises(TrainingError, match="more than one part: a"):
        Split(labelled=one, unlabelled=none, validation=none, test=none, groups=groups)
    with pytest.raises(TrainingError, match="more than one part of the split"):
        Split(
            labelled=one, unlabelled=none, validation=one, test=none,
            groups={"train": ("a",), "validation": ("b",), "test": ()},
        )  # fmt: skip


def test_what_leaves_too_little_is_refused() -> None:
    label, group = make_patches()
    with pytest.raises(TrainingError, match="nothing to train on"):
        split_by_group(label, group, SplitConfig(validation=0.5, test=0.5), seed=0)
    with pytest.raises(TrainingError, match="training labels, 999 are asked for"):
        split_by_group(label, group, SplitConfig(labels_per_class=999), seed=0)
