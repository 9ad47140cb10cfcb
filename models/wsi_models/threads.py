"""The threads that torch and BLAS compute with, by the kind of work and the cores there are.

Threads that wait for a core cost more than they bring: with both cores of a machine busy, training
a small head took 151 s with two threads and 16 s with one.
"""

from __future__ import annotations

import torch

from wsi_files.cores import asked_threads, limit_linear_algebra, usable_cores


def settle_threads(most: int | None = None) -> int:
    """Set the threads of torch and of linear algebra, and return their number.

    Parameters
    ----------
    most : int or None
        Threads at most; for work in small pieces, such as heads of slides, 1. As many as there are
        usable cores if None.

    Returns
    -------
    int
        What ``OMP_NUM_THREADS`` asks for where it is set; else what was settled.
    """
    cores = usable_cores()
    threads = asked_threads() or (cores if most is None else min(most, cores))
    torch.set_num_threads(threads)
    limit_linear_algebra(threads)
    return torch.get_num_threads()
