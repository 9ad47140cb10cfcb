"""The cores a process may use: never more than its affinity or its quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from wsi_files.cores import OF_BLAS, asked_threads, limit_linear_algebra, usable_cores

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", ALLOWED),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("150000 100000\n", min(2, ALLOWED)),
        ("6400000 100000\n", ALLOWED),
        ("100000 0\n", ALLOWED),
        ("", ALLOWED),
        ("none of this\n", ALLOWED),
    ],
)
def test_a_quota_is_kept_to(tmp_path: Path, text: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", ALLOWED), ("100000", 1)])
def test_so_is_one_of_the_old_kind(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_without_control_groups_affinity_decides(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "nowhere") == ALLOWED
    assert 1 <= usable_cores() <= ALLOWED


@pytest.mark.parametrize(
    ("text", "threads"), [("3", 3), ("2,1", 2), ("", None), ("0", None), ("many", None)]
)
def test_threads_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, text: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert asked_threads() == threads


def test_linear_algebra_keeps_to_the_cores_and_to_what_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    for name in OF_BLAS:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv(OF_BLAS[0])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with threadpool_limits(3, user_api="blas"):  # as after loading on a machine of more cores
        limit_linear_algebra()
        assert max(threads()) <= usable_cores()
        assert os.environ[OF_BLAS[0]] == str(usable_cores())
        limit_linear_algebra(1)
        assert threads() == {1}
