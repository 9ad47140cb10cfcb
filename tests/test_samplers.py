"""Batches: balanced, complete, the same for the same seed, disjoint between processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsi_models.errors import TrainingError
from wsi_models.samplers import BUFFER_BLOCKS, BalancedBatches, Drawing, PermutedBatches

LABEL = np.array([0] * 40 + [1] * 7 + [2] * 13 + [-1] * 20)
KNOWN = np.flatnonzero(LABEL >= 0)


@given(seed=st.integers(0, 99), epoch=st.integers(1, 9), per_class=st.integers(1, 12))
def test_every_batch_has_as_many_of_each_class(seed: int, epoch: int, per_class: int) -> None:
    sampler = BalancedBatches(LABEL, KNOWN, 3 * per_class, Drawing(seed=seed))
    batches = sampler.epoch(epoch, 10)
    assert batches.shape == (10, 3 * per_class)
    for batch in batches:
        assert np.bincount(LABEL[batch]).tolist() == [per_class] * 3


def test_the_patches_of_a_class_come_equally_often() -> None:
    drawn = BalancedBatches(LABEL, KNOWN, 9, Drawing(seed=0)).epoch(1, 14)
    counts = np.bincount(drawn.ravel(), minlength=len(LABEL))
    assert set(counts[LABEL == 1]) == {6}  # 14 batches of 3, for 7 patches
    assert set(counts[LABEL == 2]) == {3, 4}
    assert set(counts[LABEL == 0]) == {1, 2}
    assert set(counts[LABEL == -1]) == {0}


def test_seeds_and_epochs_differ_and_nothing_else_matters() -> None:
    def draw(seed: int, epoch: int) -> list[list[int]]:
        sampler = BalancedBatches(LABEL, KNOWN, 6, Drawing(seed=seed))
        sampler.epoch(epoch + 1, 3)  # the order of calls leaves no trace
        drawn: list[list[int]] = sampler.epoch(epoch, 8).tolist()
        return drawn

    assert draw(1, 2) == draw(1, 2)
    assert draw(1, 2) != draw(1, 3)
    assert draw(1, 2) != draw(2, 2)


@given(
    count=st.integers(1, 50),
    batch=st.integers(1, 9),
    iterations=st.integers(1, 9),
    blocked=st.booleans(),
)
def test_no_patch_comes_twice_before_all_came_once(
    count: int, batch: int, iterations: int, blocked: bool
) -> None:
    indices = np.arange(count) * 3
    block = np.arange(3 * count) // 16 if blocked else None
    sampler = PermutedBatches(indices, batch, Drawing(seed=4, block=block))
    stream = np.concatenate([sampler.epoch(epoch, iterations).ravel() for epoch in (1, 2, 3)])
    assert stream.size == 3 * iterations * batch
    for start in range(0, len(stream), count):
        turn = stream[start : start + count]
        assert len(np.unique(turn)) == len(turn)
        assert np.isin(turn, indices).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_what_one_would_draw(ranks: int) -> None:
    for kind in ("balanced", "permuted"):
        shares = []
        for rank in range(ranks):
            drawing = Drawing(seed=7, rank=rank, ranks=ranks)
            if kind == "balanced":
                shares.append(BalancedBatches(LABEL, KNOWN, 3, drawing).epoch(1, 2))
            else:
                shares.append(PermutedBatches(KNOWN, 4, drawing).epoch(1, 4))
        together = np.concatenate([share.ravel() for share in shares])
        assert len(np.unique(together)) == len(together)


def test_blocks_are_read_a_few_at_a_time() -> None:
    block = np.arange(16 * 200) // 16
    order = PermutedBatches(np.arange(len(block)), 16, Drawing(seed=0, block=block)).epoch(1, 200)
    for start in range(0, 200, BUFFER_BLOCKS):
        assert len(np.unique(block[order[start : start + BUFFER_BLOCKS]])) <= BUFFER_BLOCKS
    assert len(np.unique(block[order[0]])) > 8  # and yet a batch is well mixed


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(TrainingError, match="no multiple of the 3 classes; choose 9"):
        BalancedBatches(LABEL, KNOWN, 10, Drawing(seed=0))
    with pytest.raises(TrainingError, match="no training patch has a label"):
        BalancedBatches(LABEL, KNOWN[:0], 9, Drawing(seed=0))
    with pytest.raises(TrainingError, match="there are none"):
        PermutedBatches(KNOWN[:0], 4, Drawing(seed=0))
