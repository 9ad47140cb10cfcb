"""Which classes a synthetic slide holds, and how much of them."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.synthetic import CLASS_NAMES, Content
from wsi_pipeline.synthetic.layout import plan_slide

TUMOR = CLASS_NAMES.index("tumor")
SIZE_WH, MPP = (4096, 3072), 0.5


def shares(content: Content | None, seed: int = 3) -> np.ndarray:
    codes = plan_slide(SIZE_WH, MPP, seed, content).class_map
    return np.bincount(codes.ravel(), minlength=len(CLASS_NAMES)) / codes.size


def test_a_class_is_left_out_and_the_tissue_stays() -> None:
    every, fewer = shares(None), shares(Content(without="tumor"))

    assert every[TUMOR] > 0.05
    assert fewer[TUMOR] == 0
    assert fewer[0] == every[0]
    assert fewer[TUMOR + 1] == pytest.approx(every[TUMOR] + every[TUMOR + 1])


@pytest.mark.parametrize("seed", range(4))
def test_a_focus_is_a_disc_of_the_size_asked_for(seed: int) -> None:
    content = Content(without="tumor", focus="tumor", focus_um=300.0)

    area_um2 = shares(content, seed)[TUMOR] * SIZE_WH[0] * SIZE_WH[1] * MPP**2

    assert area_um2 == pytest.approx(np.pi * 150**2, rel=0.1)


def test_no_content_is_all_classes() -> None:
    assert (shares(None) == shares(Content())).all()


def test_an_unknown_tissue_is_refused() -> None:
    with pytest.raises(ValueError, match="no tissue 'bone'; choose among tumor, stroma"):
        Content(focus="bone")
