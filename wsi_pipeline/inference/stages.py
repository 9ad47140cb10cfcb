"""The steps from patches as they are read to the input of a network, as modules for any device.

Their arithmetic alone: how patches are read, and what the network does with them, is not known
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_pipeline.compiled import compiled
from wsi_pipeline.stain import HeEncoder, unmixing_matrix, unpack_counts

if TYPE_CHECKING:
    from wsi_pipeline.types import Interpolation, PatchSpec, StainMatrix


class Normalise(nn.Module):
    """Stored values -> ``(v / 255 - mean) / std``, float32, shape (B, C, P, P), channels last.

    Parameters
    ----------
    spec : PatchSpec
        Mean and deviation per channel, for values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: PatchSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))
        self._mean, self._std = ((v * 255.0).flatten().numpy() for v in (self.mean, self.std))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise uint8 values of 0 to 255, or floating point values of 0 to 1."""
        if values.dtype == torch.uint8 and values.device.type == "cpu":
            return self._compute_here(values)
        return self._compute(values).contiguous(memory_format=torch.channels_last)

    def _compute(self, values: Tensor) -> Tensor:
        unit = 255.0 if values.dtype == torch.uint8 else 1.0
        return values.float().sub_(self.mean * unit).div_(self.std * unit)

    def _compute_here(self, values: Tensor) -> Tensor:
        """Compute in one pass over memory: several times as fast on a processor, the same bits."""
        count, channels, height, width = values.shape
        if channels != len(self._mean):
            raise ValueError(f"{channels} channels cannot be normalised by {len(self._mean)} means")
        given = np.empty((count, height, width, channels), dtype=np.float32)
        if channels == 2:
            planes = np.ascontiguousarray(values.numpy()).reshape(count, 2, -1)
            _fill_stains(planes, self._mean, self._std, given.reshape(count, -1))
        else:
            colours = np.ascontiguousarray(values.permute(0, 2, 3, 1).numpy()).reshape(-1)
            _fill_colours(colours, self._mean, self._std, given.reshape(-1))
        return torch.from_numpy(given).permute(0, 3, 1, 2)


# One kernel for each number of channels: with all of a pixel written out, and nothing looked up,
# one instruction does several pixels.
@compiled
def _fill_stains(
    planes: NDArray[np.uint8],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    given: NDArray[np.float32],
) -> None:
    mean_h, mean_e, std_h, std_e = mean[0], mean[1], std[0], std[1]
    for i in range(len(planes)):
        hematoxylin, eosin, pixels = planes[i, 0], planes[i, 1], given[i]
        for x in range(len(eosin)):
            pixels[2 * x] = (np.float32(hematoxylin[x]) - mean_h) / std_h
            pixels[2 * x + 1] = (np.float32(eosin[x]) - mean_e) / std_e


@compiled
def _fill_colours(
    colours: NDArray[np.uint8],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    given: NDArray[np.float32],
) -> None:
    mean_r, mean_g, mean_b = mean[0], mean[1], mean[2]
    std_r, std_g, std_b = std[0], std[1], std[2]
    for x in range(len(colours) // 3):
        given[3 * x] = (np.float32(colours[3 * x]) - mean_r) / std_r
        given[3 * x + 1] = (np.float32(colours[3 * x + 1]) - mean_g) / std_g
        given[3 * x + 2] = (np.float32(colours[3 * x + 2]) - mean_b) / std_b


class Unmix(nn.Module):
    """RGB patches (B, 3, P, P) -> H/E patches (B, 2, P, P), both uint8, on any device.

    The table and the integers of :class:`wsi_pipeline.stain.HeEncoder`, so every value is the same.

    Parameters
    ----------
    stains : StainMatrix
        Stain vectors and maxima of the slide the patches are from.
    """

    table: Tensor

    def __init__(self, stains: StainMatrix) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(HeEncoder(stains).table))

    def forward(self, rgb: Tensor) -> Tensor:
        """Unmix a batch."""
        red, green, blue = (
            row.take(rgb[:, channel].long()) for channel, row in enumerate(self.table)
        )
        planes = torch.stack(unpack_counts(red + green + blue), dim=1)
        return planes.clamp_(0, 255).to(torch.uint8)


class Resize(nn.Module):
    """Patches (B, C, P, P) -> patches of another side, uint8, on any device.

    As published transforms do it, which work on pictures: weighted by the area that an output
    pixel covers, first along rows, then along columns, and rounded to whole counts each time.

    Parameters
    ----------
    side_px : int
        Side of the result, px.
    interpolation : {"bilinear", "bicubic"}
        Kernel.
    """

    def __init__(self, side_px: int, interpolation: Interpolation) -> None:
        super().__init__()
        self.side_px = side_px
        self.interpolation = interpolation

    def forward(self, patches: Tensor) -> Tensor:
        """Resize a batch."""
        height = patches.shape[-2]
        values = patches.float()
        for size in ((height, self.side_px), (self.side_px, self.side_px)):
            values = nn.functional.interpolate(
                values, size=size, mode=self.interpolation, antialias=True
            )
            values = values.add_(0.5).floor_().clamp_(0, 255)  # halves up, as pictures are
        return values.to(torch.uint8)


class CentreCrop(nn.Module):
    """Patches (B, C, P, P) -> their centre; an odd margin leaves more at the bottom right.

    Parameters
    ----------
    side_px : int
        Side of the result, px.
    """

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.side_px = side_px

    def forward(self, patches: Tensor) -> Tensor:
        """Crop a batch."""
        start = (patches.shape[-1] - self.side_px) // 2
        return patches[..., start : start + self.side_px, start : start + self.side_px]


class Restain(nn.Module):
    """RGB patches (B, 3, P, P) -> the same tissue in the stains of another slide, uint8.

    Parameters
    ----------
    own : StainMatrix
        Stain vectors and maxima of the slide the patches are from.
    target : StainMatrix
        Those it is given. Concentrations are scaled by the ratio of the maxima; what is neither
        stain, and concentrations below zero, are lost.

    References
    ----------
    .. [1] M. Macenko et al., A method for normalizing histology slides for quantitative analysis,
       ISBI 2009.
    """

    density: Tensor
    rows: Tensor
    vectors: Tensor
    light: Tensor

    def __init__(self, own: StainMatrix, target: StainMatrix) -> None:
        super().__init__()
        grey = np.maximum(np.arange(256, dtype=np.float64), 1.0)
        scale = target.max_concentration / own.max_concentration
        for name, values in (
            ("density", np.log10(own.background[:, None] / grey)),
            ("rows", unmixing_matrix(own) * scale[:, None]),
            ("vectors", target.vectors),
            ("light", target.background),
        ):
            self.register_buffer(name, torch.from_numpy(np.asarray(values)).float())

    def forward(self, rgb: Tensor) -> Tensor:
        """Stain a batch anew."""
        planes = [row[rgb[:, channel].long()] for channel, row in enumerate(self.density)]
        density = torch.stack(planes, dim=1)
        # products and sums of pixels, not of matrices, which autocasting would round
        he = _mix(self.rows.T, density).clamp_(min=0)
        passed = torch.pow(10.0, -_mix(self.vectors, he))
        return (passed * self.light.view(1, -1, 1, 1)).round_().clamp_(0, 255).to(torch.uint8)


def _mix(weights: Tensor, planes: Tensor) -> Tensor:
    """Sum planes (B, n, P, P) by weights (n, m) to planes (B, m, P, P)."""
    parts = (
        plane[:, None] * weight.view(1, -1, 1, 1)
        for plane, weight in zip(planes.unbind(dim=1), weights, strict=True)
    )
    return torch.stack(tuple(parts)).sum(dim=0)
