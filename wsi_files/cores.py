"""How many processor cores this process may really use: its affinity, and the quota of its group.

A container is often given two of sixty-four cores by a quota alone, which no library looks at: as
many threads as the machine has cores then wait for one another most of the time.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from threadpoolctl import threadpool_limits

CGROUPS = Path("/sys/fs/cgroup")

OF_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables that libraries of linear algebra look at when they are loaded."""


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Count the cores that this process may use.

    Parameters
    ----------
    cgroups : Path
        Where the system tells of control groups.

    Returns
    -------
    int
        At least 1: the smaller of the cores it may run on and its quota of processor time,
        rounded up.
    """
    # not every system has an affinity to ask for
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = allowed or 1
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def asked_threads() -> int | None:
    """Return the threads that ``OMP_NUM_THREADS`` asks for; None where it says nothing."""
    words = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(words) if words.isdigit() and int(words) > 0 else None


def limit_linear_algebra(most: int | None = None) -> None:
    """Keep the threads of BLAS and LAPACK to the usable cores: by themselves they take all.

    Parameters
    ----------
    most : int or None
        Threads at most; the usable cores, or what ``OMP_NUM_THREADS`` asks for, if None.

    Notes
    -----
    Holds for libraries that are loaded and, unless their own variables are set, for those that
    this process and those it starts load later.
    """
    threads = most or asked_threads() or usable_cores()
    for name in OF_BLAS:
        os.environ.setdefault(name, str(threads))
    threadpool_limits(threads, user_api="blas")


def _quota(cgroups: Path) -> float | None:
    """Read the quota in cores, of either version of control groups; None without one."""
    both = _words(cgroups / "cpu.max")
    if len(both) == 2:
        return _share(*both)
    old = cgroups / "cpu"
    words = [*_words(old / "cpu.cfs_quota_us"), *_words(old / "cpu.cfs_period_us")]
    return _share(*words) if len(words) == 2 else None


def _share(quota: str, period: str) -> float | None:
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):  # "max" and -1 are none
        return None
    return int(quota) / int(period)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []  # no such system, or not for us to read: then there is no quota to keep to
