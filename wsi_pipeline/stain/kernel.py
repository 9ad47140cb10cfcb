"""RGB pixels and a table of what each intensity adds -> hematoxylin and eosin, in one pass.

Compiled, and free of Python's lock, so that threads scale. Where the table comes from is not known
here.
"""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.compiled import compiled

_FRACTION_BITS = 14
_MOST_COUNTS = 40_000.0
_HALF = 32
_RUN = 1024


class _Shifted(Protocol):
    """Integers of any library."""

    def __lshift__(self, bits: int, /) -> Self: ...

    def __rshift__(self, bits: int, /) -> Self: ...


Sums = TypeVar("Sums", bound=_Shifted)


def fixed_point_table(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pack what each intensity adds to either plane.

    Parameters
    ----------
    counts : ndarray of shape (2, 3, 256), float64
        Counts that an intensity adds to hematoxylin and to eosin, by channel.

    Returns
    -------
    ndarray of shape (3, 256), int64
        Fixed point, hematoxylin in the upper 32 bits and eosin in the lower, so that one addition
        serves both. Half a count is added once, for rounding. Entries beyond 40,000 counts are
        clipped to that, or sums would overflow; no matrix of an H&E slide has any.
    """
    bounded = counts.clip(-_MOST_COUNTS, _MOST_COUNTS)
    bounded[:, 0] += 0.5
    hematoxylin, eosin = np.rint(bounded * 2**_FRACTION_BITS).astype(np.int64)
    return np.asarray((hematoxylin << _HALF) + eosin)


def separate_pixels(
    rgb: NDArray[np.uint8], table: NDArray[np.int64], planes: NDArray[np.uint8]
) -> None:
    """Look up, add and clip every pixel.

    Parameters
    ----------
    rgb : ndarray of shape (N, 3), uint8
        Pixels, contiguous.
    table : ndarray of shape (3, 256), int64
        From :func:`fixed_point_table`.
    planes : ndarray of shape (2, N), uint8
        Receives hematoxylin and eosin: the sums over channels, rounded and clipped to [0, 255].
        Integers make the result the same on every machine.
    """
    _separate(rgb.reshape(-1), table[0], table[1], table[2], planes)


def unpack_counts(both: Sums) -> tuple[Sums, Sums]:
    """Take sums of table entries apart, for devices that the compiled kernel does not reach.

    Parameters
    ----------
    both : array or tensor of int64
        Sums over channels of entries of :func:`fixed_point_table`.

    Returns
    -------
    tuple of the same
        Counts of hematoxylin and of eosin, rounded, not clipped.
    """
    return both >> (_HALF + _FRACTION_BITS), (both << _HALF) >> (_HALF + _FRACTION_BITS)


@compiled
def _separate(
    values: NDArray[np.uint8],
    red: NDArray[np.int64],
    green: NDArray[np.int64],
    blue: NDArray[np.int64],
    planes: NDArray[np.uint8],
) -> None:
    # a run of sums first, then both planes of it: the second loop has no tables, so that one
    # instruction does several pixels; sums that fit the nearest cache cost less than that gains
    sums = np.empty(_RUN, dtype=np.int64)
    least, most = np.int32(0), np.int32(255)
    for start in range(0, planes.shape[1], _RUN):
        run = values[3 * start : 3 * (start + _RUN)]
        hematoxylin = planes[0, start : start + _RUN]
        eosin = planes[1, start : start + _RUN]
        for i in range(len(hematoxylin)):
            sums[i] = red[run[3 * i]] + green[run[3 * i + 1]] + blue[run[3 * i + 2]]
        for i in range(len(hematoxylin)):
            upper, lower = np.int32(sums[i] >> _HALF), np.int32(sums[i])
            hematoxylin[i] = min(max(upper >> _FRACTION_BITS, least), most)
            eosin[i] = min(max(lower >> _FRACTION_BITS, least), most)
