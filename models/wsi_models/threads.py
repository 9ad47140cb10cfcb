"""The threads that torch computes with, by the kind of work and the cores there are.

Threads that wait for a core cost more than they bring: with both cores of a machine busy, training
a small head took 151 s with two threads and 16 s with one.
"""

from __future__ import annotations

import torch

from wsi_files.cores import asked_threads, usable_cores


def settle_threads(most: int | None = None) -> int:
    """Set the threads of torch and return their number.

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
    asked = asked_threads()
    cores = usable_cores()
    torch.set_num_threads(asked or (cores if most is None else min(most, cores)))
    return torch.get_num_threads()
