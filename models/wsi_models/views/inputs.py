"""Stored RGB patches and their stain rows -> normalised input, random or plain.

Batched and on the device of the patches; which patches, and what is learned, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from wsi_models.parts import draws
from wsi_models.parts.choices import Choices
from wsi_models.views.color import (
    FIXED_UNMIX,
    JitterOp,
    blend,
    jitter_brightness,
    jitter_rgb,
    view_channels,
)
from wsi_models.views.focus import add_noise, defocus
from wsi_models.views.geometry import centre_crop, random_crops

if TYPE_CHECKING:
    from wsi_models.views.config import RgbViewConfig, StainViewConfig

Positive = Annotated[float, Field(gt=0)]

STRONG_OPS: tuple[JitterOp, ...] = ("brightness", "contrast", "saturation", "sharpness")


class Patches(Protocol):
    """Stored patches: ``rgb`` (B, 3, S, S) uint8 and ``unmix`` (B, 2, 3) float32."""

    @property
    def rgb(self) -> Tensor:
        """The pixels."""

    @property
    def unmix(self) -> Tensor:
        """The stain rows of each patch's slide, over twice the maxima."""


class Normalisation(Choices):
    """Mean and deviation of both channels over the training set, in [0, 1]."""

    mean: tuple[float, float] = Field(description="Subtracted, per channel.")
    std: tuple[Positive, Positive] = Field(description="Divided by, per channel.")


class StainViews(nn.Module):
    """The two stains of patches, as CLASS-M shows them to its network.

    In training: RGB jitter, separation with the slide's stain rows, a rotation, crop, flip and
    brightness of its own for each channel, blur and noise where asked for, normalisation. In
    evaluation: separation, centre crop, normalisation.

    Parameters
    ----------
    config : StainViewConfig
        The choices.
    normalisation : Normalisation
        Of the training set; kept as buffers ``mean`` and ``std``.

    Notes
    -----
    Brightness is jittered after the crop rather than before the rotation: it acts on each pixel
    alone and nearest-neighbour sampling only moves pixels, so the result is the same.

    References
    ----------
    .. [1] B. Zhang et al., CLASS-M, Medical Image Analysis 105 (2025) 103711.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: StainViewConfig, normalisation: Normalisation) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, 2, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, 2, 1, 1))

    def random(self, patches: Patches, generator: torch.Generator) -> Tensor:
        """Draw a training view of each patch, shape (B, 2, P, P)."""
        config = self.config
        rgb = to_unit(patches.rgb)
        if config.rgb_jitter > 0:
            rgb = jitter_rgb(rgb, config.rgb_jitter, generator)
        channels = self._separate(rgb, patches.unmix)
        crops = random_crops(
            channels,
            config.patch_px,
            config.rotation,
            generator,
            same_geometry=config.same_geometry,
        )
        if config.channel_brightness > 0:
            crops = jitter_brightness(crops, config.channel_brightness, generator)
        if config.blur_px > 0:
            crops = defocus(crops, config.blur_px, generator)
        if config.noise > 0:
            crops = add_noise(crops, config.noise, generator)
        return (crops - self.mean) / self.std

    def plain(self, patches: Patches) -> Tensor:
        """Make the evaluation view of each patch, shape (B, 2, P, P)."""
        rgb = to_unit(centre_crop(patches.rgb, self.config.patch_px))
        return (self._separate(rgb, patches.unmix) - self.mean) / self.std

    def _separate(self, rgb: Tensor, unmix: Tensor) -> Tensor:
        return view_channels(rgb, _stain_rows(self.config, unmix), self.config.channels)


class RgbViews(nn.Module):
    """Patches in RGB, as the baselines see them: the same geometry, one for all three channels.

    Parameters
    ----------
    config : RgbViewConfig
        The choices.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: RgbViewConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1))

    def random(self, patches: Patches, generator: torch.Generator) -> Tensor:
        """Draw a training view of each patch, shape (B, 3, P, P)."""
        return self.normalise(self._weak(patches, generator))

    def strong(
        self, patches: Patches, generator: torch.Generator, factors: tuple[float, float]
    ) -> Tensor:
        """Draw a strongly changed view of each patch, shape (B, 3, P, P).

        A training view, then two of brightness, contrast, saturation and sharpness, each with a
        factor drawn uniformly between two, then a square hole of up to half the side. After
        RandAugment and Cutout as FixMatch uses them, without operations that change hues, on
        which stains rest.

        References
        ----------
        .. [1] K. Sohn et al., FixMatch, NeurIPS 2020.
        """
        rgb = self._weak(patches, generator)
        count, device = len(rgb), rgb.device
        for _ in range(2):
            choice = draws.integers((count,), len(STRONG_OPS), generator, device)
            factor = draws.uniform((count,), *factors, generator, device)
            rgb = blend(rgb, STRONG_OPS, choice, factor)
        # the hole is filled with the mean of the input, which is zero once normalised
        return self.normalise(rgb) * (~_holes(rgb, generator))

    def plain(self, patches: Patches) -> Tensor:
        """Make the evaluation view of each patch, shape (B, 3, P, P)."""
        return self.normalise(to_unit(centre_crop(patches.rgb, self.config.patch_px)))

    def _weak(self, patches: Patches, generator: torch.Generator) -> Tensor:
        config = self.config
        rgb = self._recolor(to_unit(patches.rgb), generator)
        return random_crops(rgb, config.patch_px, config.rotation, generator, same_geometry=True)

    def _recolor(self, rgb: Tensor, generator: torch.Generator) -> Tensor:
        strength = self.config.rgb_jitter
        return jitter_rgb(rgb, strength, generator) if strength > 0 else rgb

    def normalise(self, rgb: Tensor) -> Tensor:
        """Subtract the mean of RGB in [0, 1] and divide by its deviation."""
        return (rgb - self.mean) / self.std


def to_unit(rgb: Tensor) -> Tensor:
    """Scale uint8 intensities to float32 in [0, 1]."""
    return rgb.to(torch.float32) / 255


def measure_normalisation(batches: Iterable[Patches], config: StainViewConfig) -> Normalisation:
    """Measure mean and deviation of both channels over patches.

    Parameters
    ----------
    batches : iterable of Patches
        The training set, labelled and unlabelled; each whole stored patch counts.
    config : StainViewConfig
        Which channels, and whose stain matrix.

    Returns
    -------
    Normalisation
        Over all pixels, without jitter.

    Raises
    ------
    ValueError
        If there is no patch, or a channel is the same everywhere.
    """
    count = 0
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for patches in batches:
        rows = _stain_rows(config, patches.unmix)
        values = view_channels(to_unit(patches.rgb), rows, config.channels).to(torch.float64)
        count += values[:, 0].numel()
        moments = torch.stack([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))])
        sums += moments.cpu()
    if count == 0:
        raise ValueError("no patch to measure the normalisation from; give training patches")
    mean = sums[0] / count
    std = (sums[1] / count - mean.square()).clamp(min=0).sqrt()
    if bool((std < 1e-6).any()):
        raise ValueError(f"channels have deviations {std.tolist()}; are the patches blank?")
    return Normalisation(mean=(float(mean[0]), float(mean[1])), std=(float(std[0]), float(std[1])))


def _stain_rows(config: StainViewConfig, unmix: Tensor) -> Tensor:
    if config.stain_matrix == "fixed":
        return unmix.new_tensor(FIXED_UNMIX).expand(len(unmix), 2, 3)
    return unmix


def _holes(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a square per patch of 0 to half its side anywhere in it, shape (B, 1, P, P), bool."""
    count, side, device = len(patches), patches.shape[-1], patches.device
    half = draws.uniform((count, 1), 0, side / 4, generator, device)
    centre = draws.uniform((count, 2), 0, side, generator, device)
    place = torch.arange(side, device=device) + 0.5
    rows = (place - centre[:, :1]).abs() < half
    cols = (place - centre[:, 1:]).abs() < half
    return (rows[:, :, None] & cols[:, None, :])[:, None]
