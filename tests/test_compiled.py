"""Compiled functions do what they say in Python, and work where nothing can be kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from wsi_pipeline.compiled import compiled

if TYPE_CHECKING:
    import pytest


def total(values: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    result = 0
    for value in values:
        result += value
    return result


def test_the_result_is_that_of_python() -> None:
    values = np.arange(10)

    assert compiled(total)(values) == total(values) == 45


def test_a_folder_that_cannot_be_written_to_costs_only_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []
    njit = numba.njit

    def refuse_to_cache(*, cache: bool, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", refuse_to_cache)

    assert compiled(total)(np.arange(4)) == 6
    assert asked == [True, False]
