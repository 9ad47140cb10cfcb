"""Python functions on arrays -> machine code that runs beside other threads.

The only module that knows the compiler. What is compiled, and why, is the business of others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call, and keep the result for later processes.

    Parameters
    ----------
    function : callable
        Loops over arrays and numbers, as numba compiles them.

    Returns
    -------
    callable
        The same function. It runs without Python's lock and in strict IEEE arithmetic, so that
        results are the same on every machine.
    """
    try:
        return _jit(function, cache=True)
    except RuntimeError:
        # neither the package nor the home folder can be written to: compile in every process
        return _jit(function, cache=False)


def _jit(function: Callable[P, R], *, cache: bool) -> Callable[P, R]:
    faster: Callable[P, R] = numba.njit(nogil=True, cache=cache)(function)
    return faster
