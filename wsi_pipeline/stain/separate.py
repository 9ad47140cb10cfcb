"""RGB patches and a stain matrix to hematoxylin and eosin concentrations, and back from storage.

Only the matrix decides: nothing here looks at the pixels to scale, clip or correct them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_pipeline.stain.kernel import fixed_point_table, separate_pixels
from wsi_pipeline.types import StainMatrix

HEADROOM = 2.0
"""A concentration of ``HEADROOM * max_concentration`` is the largest a patch can hold."""

PUBLISHED_ROWS = np.array([[1.838, 0.0341, -0.760], [-1.373, 0.772, 1.215]])
"""Fixed unmixing rows (H, E) that CLASS-M publishes for slides without an estimate of their own."""

PUBLISHED_MAX_CONCENTRATION = np.array([0.5, 0.5])
"""Normalisation maxima that go with :data:`PUBLISHED_ROWS`."""


def optical_density(rgb: NDArray[np.uint8], background: ArrayLike = 255.0) -> NDArray[np.float64]:
    """Turn intensities into optical density.

    Parameters
    ----------
    rgb : ndarray of shape (..., 3), uint8
        Intensities.
    background : float or array of shape (3,)
        Incident light I0.

    Returns
    -------
    ndarray of shape (..., 3), float64
        ``log10(I0 / max(I, 1))``: at most 2.41, and negative only for pixels brighter than the
        background.
    """
    table = _density_table(np.broadcast_to(np.asarray(background, dtype=np.float64), (3,)))
    return np.stack([table[:, c].take(rgb[..., c]) for c in range(3)], axis=-1)


def density_planes(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Turn intensities (3, N) into optical density (3, N) against a background of 255.

    Plane by plane, for numpy is several times slower along an axis of three.
    """
    table = _density_table(np.full(3, 255.0))[:, 0]
    return np.asarray(table.take(rgb))


def fixed_stain_matrix() -> StainMatrix:
    """Return the published fixed matrix, for slides that do not support an estimate.

    Returns
    -------
    StainMatrix
        Unmixing with it gives :data:`PUBLISHED_ROWS` and the network input scales to a maximum of
        0.5 as published. The published rows have three to four digits and invert to vectors whose
        lengths are 0.99987 and 0.99983; scaling these to 1 and the maxima with them leaves the
        network input exactly as published and the concentrations within 0.02 %.
    """
    vectors = np.linalg.pinv(PUBLISHED_ROWS).T
    lengths = np.linalg.norm(vectors, axis=1)
    return StainMatrix(
        vectors=vectors / lengths[:, None],
        max_concentration=PUBLISHED_MAX_CONCENTRATION * lengths,
    )


def unmixing_matrix(stains: StainMatrix) -> NDArray[np.float64]:
    """Return the rows that turn optical density into concentrations.

    Parameters
    ----------
    stains : StainMatrix
        Stain vectors of a slide.

    Returns
    -------
    ndarray of shape (2, 3), float64
        Hematoxylin's row, then eosin's: the pseudo-inverse of the matrix whose columns are the
        stain vectors. Equal to the first two rows of the inverse with a residual stain at right
        angles to both.
    """
    return np.asarray(np.linalg.pinv(stains.vectors.T))


def input_rows(stains: StainMatrix) -> NDArray[np.float64]:
    """Return the rows that turn optical density into network input before it is clipped.

    Parameters
    ----------
    stains : StainMatrix
        Stain vectors and maxima of a slide.

    Returns
    -------
    ndarray of shape (2, 3), float64
        :func:`unmixing_matrix` over twice the maximum concentration of each stain.
    """
    return unmixing_matrix(stains) / (HEADROOM * stains.max_concentration[:, None])


def unmix(rgb: NDArray[np.uint8], stains: StainMatrix) -> NDArray[np.float32]:
    """Separate an RGB patch into concentrations of hematoxylin and eosin.

    Parameters
    ----------
    rgb : ndarray of shape (H, W, 3), uint8
        Patch.
    stains : StainMatrix
        Stain vectors of the slide the patch is from; those of another slide give plausible but
        wrong concentrations.

    Returns
    -------
    ndarray of shape (2, H, W), float32
        Least-squares concentrations in log10 optical density, hematoxylin first. Noise makes them
        slightly negative where a stain is absent; they are not clipped.

    Raises
    ------
    ValueError
        If ``rgb`` is not of shape (H, W, 3) and dtype uint8.

    Examples
    --------
    Unstained glass holds neither stain:

    >>> glass = np.full((2, 2, 3), 255, dtype=np.uint8)
    >>> bool(np.all(np.abs(unmix(glass, fixed_stain_matrix())) < 1e-6))
    True
    """
    od = _patch_density(rgb, stains)
    rows = unmixing_matrix(stains).astype(np.float32)
    return np.stack([cv2.transform(od, row[None]) for row in rows])


class HeEncoder:
    """Separates patches of one slide into the two 8-bit planes that are stored.

    What depends on the slide alone is worked out once. Threads may share an encoder.

    Parameters
    ----------
    stains : StainMatrix
        Stain vectors and maxima of the slide.

    Attributes
    ----------
    table : ndarray of shape (3, 256), int64
        What each intensity of a channel adds to both planes, for other devices: the sums over
        channels, taken apart by :func:`unpack_counts` and clipped to [0, 255], are the planes.
    """

    def __init__(self, stains: StainMatrix) -> None:
        density = _density_table(stains.background)
        rows = 255.0 * input_rows(stains)
        self.table = fixed_point_table(rows[:, :, None] * density.T)

    def encode(self, rgb: NDArray[np.uint8], planes: NDArray[np.uint8]) -> None:
        """Separate a patch.

        Parameters
        ----------
        rgb : ndarray of shape (H, W, 3), uint8
            Patch of the slide.
        planes : ndarray of shape (2, H, W), uint8
            Receives ``round(255 * clip(c / (2 * max_concentration), 0, 1))``, hematoxylin first;
            within one count of the same in float64 (rounding of exact halves). Contiguous.

        Raises
        ------
        ValueError
            If ``rgb`` is not of shape (H, W, 3) and dtype uint8, or ``planes`` does not fit.
        """
        _check_patch(rgb)
        if planes.shape != (2, *rgb.shape[:2]) or planes.dtype != np.uint8:
            raise ValueError(
                f"planes of a patch {rgb.shape} must be {(2, *rgb.shape[:2])} uint8, got "
                f"{planes.shape} {planes.dtype}"
            )
        if not planes.flags.c_contiguous:
            raise ValueError("planes must be contiguous; pass a whole array and copy from it")
        pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
        separate_pixels(pixels, self.table, planes.reshape(2, -1))


def encode_he(rgb: NDArray[np.uint8], stains: StainMatrix) -> NDArray[np.uint8]:
    """Separate an RGB patch into the two 8-bit planes that are stored.

    Parameters
    ----------
    rgb : ndarray of shape (H, W, 3), uint8
        Patch.
    stains : StainMatrix
        Stain vectors and maxima of the slide the patch is from.

    Returns
    -------
    ndarray of shape (2, H, W), uint8
        As :meth:`HeEncoder.encode` gives; use an encoder for many patches of one slide.

    Raises
    ------
    ValueError
        If ``rgb`` is not of shape (H, W, 3) and dtype uint8.
    """
    _check_patch(rgb)
    planes = np.empty((2, *rgb.shape[:2]), dtype=np.uint8)
    HeEncoder(stains).encode(rgb, planes)
    return planes


def encode_he_float16(rgb: NDArray[np.uint8], stains: StainMatrix) -> NDArray[np.float16]:
    """Separate an RGB patch into network input of half precision.

    Parameters
    ----------
    rgb : ndarray of shape (H, W, 3), uint8
        Patch.
    stains : StainMatrix
        Stain vectors and maxima of the slide the patch is from.

    Returns
    -------
    ndarray of shape (2, H, W), float16
        ``clip(c / (2 * max_concentration), 0, 1)``, hematoxylin first.

    Raises
    ------
    ValueError
        If ``rgb`` is not of shape (H, W, 3) and dtype uint8.
    """
    od = _patch_density(rgb, stains)
    rows = input_rows(stains).astype(np.float32)
    values = np.stack([cv2.transform(od, row[None]) for row in rows])
    return np.clip(values, 0.0, 1.0).astype(np.float16)


def decode_he(he: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn stored 8-bit planes into network input in [0, 1], of the same shape."""
    return he.astype(np.float32) / np.float32(255.0)


def _density_table(background: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tabulate optical density by intensity, shape (256, 3)."""
    intensity = np.maximum(np.arange(256, dtype=np.float64), 1.0)
    return np.log10(background[None, :] / intensity[:, None])


def _patch_density(rgb: NDArray[np.uint8], stains: StainMatrix) -> NDArray[np.float32]:
    _check_patch(rgb)
    table = _density_table(stains.background).astype(np.float32)
    return np.asarray(cv2.LUT(np.ascontiguousarray(rgb), table[None]), dtype=np.float32)


def _check_patch(rgb: NDArray[np.uint8]) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"a patch must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
