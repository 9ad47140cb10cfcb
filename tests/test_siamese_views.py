"""Views of methods without labels: what they show of a patch, and in which colours."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from skimage.filters import gaussian
from torch import Tensor
from torch.nn import functional
from wsi_models.methods import Batch
from wsi_models.views import RgbViewConfig, RgbViews, SiameseViewConfig, SiameseViews
from wsi_models.views.color import turn_hue
from wsi_models.views.focus import gaussian_blur
from wsi_models.views.siamese import resized_crops

from tests.tiny_patches import tiny_batch

STILL: dict[str, Any] = {"jitter_share": 0.0, "grey_share": 0.0, "blur_share": 0.0}
"""Choices that leave the colours alone."""


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ramp(count: int, side: int) -> Tensor:
    """Draw patches whose red is the column and whose green is the row of each pixel's centre."""
    place = (torch.arange(side) + 0.5) / side
    red, green = place.expand(side, side), place[:, None].expand(side, side)
    return torch.stack([red, green, torch.zeros(side, side)]).expand(count, 3, side, side)


def _shown(**changes: Any) -> tuple[Tensor, Tensor]:
    """Return width and height of what 4000 views show, as shares of the patch, signed."""
    config = SiameseViewConfig(patch_px=8, **changes)
    crops = resized_crops(_ramp(4000, 64), config, _generator())
    # from the centre of the first to that of the last pixel it is 7/8 of what is shown
    width = (crops[:, 0, 4, -1] - crops[:, 0, 4, 0]) * 8 / 7
    height = (crops[:, 1, -1, 4] - crops[:, 1, 0, 4]) * 8 / 7
    return width, height


def test_views_show_rectangles_of_the_shares_and_shapes_asked_for() -> None:
    width, height = _shown(crop_share=(0.3, 0.5), crop_aspect=(0.8, 1.25))
    area, aspect = width.abs() * height, width.abs() / height
    assert 0.295 < float(area.min()) < 0.31
    assert 0.49 < float(area.max()) < 0.505
    assert 0.79 < float(aspect.min()) < 0.82
    assert 1.22 < float(aspect.max()) < 1.26
    assert float(aspect.log().mean()) == pytest.approx(0, abs=0.01)


def test_half_of_the_views_are_mirrored_and_none_is_upside_down() -> None:
    width, height = _shown()
    assert float((width < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert bool((height > 0).all())


def test_rectangles_lie_anywhere_inside() -> None:
    config = SiameseViewConfig(patch_px=8, crop_share=(0.25, 0.25), crop_aspect=(1, 1))
    crops = resized_crops(_ramp(4000, 64), config, _generator())
    for channel in (0, 1):
        centre = crops[:, channel].mean(dim=(1, 2))
        assert 0.24 < float(centre.min()) < 0.27
        assert 0.73 < float(centre.max()) < 0.76
        assert float(centre.mean()) == pytest.approx(0.5, abs=0.01)


def test_the_whole_patch_at_its_own_size_is_itself_or_its_mirror() -> None:
    config = SiameseViewConfig(patch_px=16, crop_share=(1, 1), crop_aspect=(1, 1))
    rgb = torch.rand((6, 3, 16, 16), generator=_generator())
    for patch, crop in zip(rgb, resized_crops(rgb, config, _generator(1)), strict=True):
        assert any(
            torch.allclose(crop, whole, atol=1e-5) for whole in (patch, patch.flip(dims=(2,)))
        )


def test_a_blur_is_that_of_skimage_for_each_patch() -> None:
    rgb = torch.rand((3, 3, 20, 20), generator=_generator())
    deviation = torch.tensor([0.3, 1.0, 2.0])
    found = gaussian_blur(rgb, deviation, 2.0)
    for patch, sigma, blurred in zip(rgb, deviation.tolist(), found, strict=True):
        expected = gaussian(  # type: ignore[no-untyped-call]  # publishes no types
            patch.numpy(), sigma, mode="nearest", truncate=6 / sigma, channel_axis=0
        )
        torch.testing.assert_close(blurred, torch.from_numpy(expected))


def test_hues_turn_and_luma_stays() -> None:
    rgb = 0.4 + 0.2 * torch.rand((2, 3, 8, 8), generator=_generator())
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    turned = turn_hue(rgb, torch.tensor([0.1, -0.1]))
    assert not torch.allclose(turned, rgb, atol=0.01)
    torch.testing.assert_close((turned * luma).sum(1), (rgb * luma).sum(1))
    back = turn_hue(turned, torch.tensor([-0.1, 0.1]))
    torch.testing.assert_close(back, rgb)
    torch.testing.assert_close(turn_hue(rgb, torch.tensor([1.0, 0.0])), rgb)


def test_shares_of_grey_and_jittered_views_are_those_asked_for() -> None:
    batch = tiny_batch(1, 400, side=8)
    unit = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    whole = {"patch_px": 8, "crop_share": (1, 1), "crop_aspect": (1, 1)}
    views = SiameseViews(SiameseViewConfig(**unit, **whole, **STILL | {"grey_share": 0.3}))
    shown = views.random(batch, _generator())
    grey = (shown[:, 0] == shown[:, 1]).all(dim=2).all(dim=1)
    assert float(grey.float().mean()) == pytest.approx(0.3, abs=0.07)

    views = SiameseViews(SiameseViewConfig(**unit, **whole, **STILL | {"jitter_share": 0.6}))
    shown = views.random(batch, _generator())
    rgb = batch.rgb / 255
    distance = torch.minimum(
        (shown - rgb).abs().amax(dim=(1, 2, 3)), (shown.flip(3) - rgb).abs().amax(dim=(1, 2, 3))
    )
    assert float((distance > 1e-4).float().mean()) == pytest.approx(0.6, abs=0.07)


def test_two_draws_differ_and_evaluation_is_the_plain_centre() -> None:
    batch = tiny_batch(3, 2)
    config = SiameseViewConfig(patch_px=32)
    views, generator = SiameseViews(config), _generator()
    assert not torch.equal(views.random(batch, generator), views.random(batch, generator))
    plain = RgbViews(RgbViewConfig(patch_px=32)).plain(batch)
    assert torch.equal(views.plain(batch), plain)
    assert torch.equal(views.random(batch, _generator(4)), views.random(batch, _generator(4)))


def test_views_do_not_depend_on_the_company_of_a_patch() -> None:
    """Each patch has its own parameters: exchanging another one changes nothing for it."""
    batch, views = tiny_batch(3, 2), SiameseViews(SiameseViewConfig(patch_px=32))
    other = Batch(batch.rgb.clone(), batch.unmix, batch.label)
    other.rgb[3:] = 0
    shown, again = views.random(batch, _generator()), views.random(other, _generator())
    torch.testing.assert_close(shown[:3], again[:3])
    assert not torch.allclose(shown[3:], again[3:])


def test_stored_patches_must_hold_the_centre() -> None:
    config = SiameseViewConfig(patch_px=64)
    config.require_room(64)
    with pytest.raises(ValueError, match="63 px give at most 63 px"):
        config.require_room(63)


def test_views_are_finite_in_the_extremes() -> None:
    batch = tiny_batch(1, 4)
    flat = Batch(torch.zeros_like(batch.rgb), batch.unmix, batch.label)
    config = SiameseViewConfig(patch_px=32, grey_share=1, blur_share=1, hue_jitter=0.5)
    shown = SiameseViews(config).random(flat, _generator())
    assert bool(torch.isfinite(shown).all())
    black = -(torch.tensor(config.mean) / torch.tensor(config.std)).view(1, 3, 1, 1)
    torch.testing.assert_close(shown, black.expand_as(shown))
    assert math.isclose(float(functional.relu(shown).sum()), 0)
