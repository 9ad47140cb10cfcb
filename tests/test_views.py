"""Views hold what they should: known stains, no fill, independent geometry, no trace of jitter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wsi_models.methods import Batch
from wsi_models.views import (
    Normalisation,
    RgbViewConfig,
    RgbViews,
    StainViewConfig,
    StainViews,
    measure_normalisation,
)
from wsi_models.views.color import (
    FIXED_UNMIX,
    JitterOp,
    blend,
    jitter_brightness,
    jitter_rgb,
    separate,
    view_channels,
)
from wsi_models.views.focus import add_noise, defocus
from wsi_models.views.geometry import (
    Placement,
    Rotation,
    centre_crop,
    draw_placement,
    place,
    random_crops,
    upright_side,
)

from tests.oracles import network_input_oracle
from tests.tiny_patches import MAXIMA, ROWS, STAINS, colored, tiny_batch

PLAIN = Normalisation(mean=(0.0, 0.0), std=(1.0, 1.0))
JITTER: tuple[JitterOp, ...] = ("brightness", "contrast", "saturation")
CPU = torch.device("cpu")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _picture(side: int, channels: int = 1) -> Tensor:
    """A picture without symmetry: every pixel has a value of its own."""
    return torch.arange(channels * side * side, dtype=torch.float32).view(1, channels, side, side)


class TestColor:
    @given(
        brightness=st.floats(0.5, 1.5), contrast=st.floats(0.5, 1.5), saturation=st.floats(0.5, 1.5)
    )
    def test_blends_are_what_they_are_called(
        self, brightness: float, contrast: float, saturation: float
    ) -> None:
        """Each operation against its definition, one pixel at a time."""
        rgb = torch.rand((3, 3, 4, 4), generator=_generator(), dtype=torch.float64)
        factors = torch.tensor([brightness, contrast, saturation], dtype=torch.float64)
        result = blend(rgb, JITTER, torch.arange(3), factors)
        for item in range(3):
            greys = [
                [float(rgb[item, :, y, x] @ torch.tensor([0.2989, 0.587, 0.114]).double())
                 for x in range(4)] for y in range(4)
            ]  # fmt: skip
            for channel, y, x in np.ndindex(3, 4, 4):
                target = (0.0, float(np.mean(greys)), greys[y][x])[item]
                value = float(
                    factors[item] * rgb[item, channel, y, x] + (1 - factors[item]) * target
                )
                assert result[item, channel, y, x].item() == pytest.approx(
                    min(max(value, 0), 1), abs=1e-6
                )

    def test_factor_of_one_changes_nothing(self) -> None:
        rgb = torch.rand((4, 3, 5, 5), generator=_generator())
        torch.testing.assert_close(
            blend(rgb, (*JITTER, "sharpness"), torch.arange(4), torch.ones(4)), rgb
        )

    def test_sharpness_blends_with_the_mean_of_neighbours(self) -> None:
        rgb = torch.zeros((1, 3, 5, 5))
        rgb[:, :, 2, 2] = 0.9
        blurred = blend(rgb, ("sharpness",), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
        torch.testing.assert_close(blurred[0, :, 1:4, 1:4], torch.full((3, 3, 3), 0.1))
        assert not bool(blurred[0, :, 0].any())

    def test_each_patch_has_its_own_jitter(self) -> None:
        """Same patch eight times: eight results, all within what three factors of 10 % allow."""
        rgb = torch.rand((1, 3, 6, 6), generator=_generator()).expand(8, 3, 6, 6) * 0.5
        jittered = jitter_rgb(rgb, 0.1, _generator(1))
        assert len({tuple(patch.flatten().tolist()) for patch in jittered}) == 8
        assert float((jittered - rgb).abs().max()) < 0.5 * (1.1**3 - 1) + 0.1
        assert not torch.equal(jittered[0], rgb[0])

    def test_jitter_is_three_blends_in_an_order_of_each_patch(self) -> None:
        """Each patch alone, one operation after the other, gives the same as the batch at once."""
        rgb = torch.rand((30, 3, 4, 4), generator=_generator())
        jittered = jitter_rgb(rgb, 0.5, _generator(1))
        generator = _generator(1)
        orders = torch.rand((30, 3), generator=generator).argsort(dim=1)
        factors = 0.5 + torch.rand((30, 3), generator=generator)
        assert len({tuple(order) for order in orders.tolist()}) == 6
        for item in range(30):
            patch = rgb[item : item + 1]
            for step in range(3):
                op = JITTER[int(orders[item, step])]
                patch = blend(patch, (op,), torch.zeros(1).long(), factors[item, step : step + 1])
            torch.testing.assert_close(jittered[item : item + 1], patch)

    def test_brightness_is_one_factor_per_channel(self) -> None:
        channels = torch.full((50, 2, 3, 3), 0.5)
        jittered = jitter_brightness(channels, 0.1, _generator())
        factors = jittered[:, :, 0, 0] / 0.5
        assert torch.equal(jittered, jittered[:, :, :1, :1].expand_as(jittered))
        assert 0.9 <= float(factors.min()) < 0.92
        assert 1.08 < float(factors.max()) <= 1.1
        assert abs(float(torch.corrcoef(factors.T)[0, 1])) < 0.3
        assert float(jitter_brightness(torch.ones(9, 2, 1, 1), 0.1, _generator()).max()) == 1

    def test_every_channel_is_blurred_by_a_deviation_of_its_own(self) -> None:
        spot = torch.zeros(40, 2, 21, 21)
        spot[:, :, 10, 10] = 1
        blurred = defocus(spot, 1.5, _generator())
        torch.testing.assert_close(blurred.sum(dim=(2, 3)), torch.ones(40, 2))
        peaks = blurred[:, :, 10, 10]
        assert float(peaks.max()) > 0.9  # hardly blurred
        # the peak of a Gaussian of deviation 1.5 px, which none lies below
        assert 0.065 < float(peaks.min()) < 0.1
        assert abs(float(torch.corrcoef(peaks.T)[0, 1])) < 0.5

    def test_noise_is_as_strong_as_drawn_and_stays_in_range(self) -> None:
        channels = torch.full((60, 2, 40, 40), 0.5)
        deviations = add_noise(channels, 0.06, _generator()).std(dim=(2, 3))
        assert float(deviations.min()) < 0.005
        assert 0.055 < float(deviations.max()) < 0.065
        noisy = add_noise(torch.ones(9, 2, 8, 8), 0.5, _generator())
        assert (float(noisy.min()) >= 0) & (float(noisy.max()) <= 1)

    def test_separation_equals_least_squares_per_pixel(self) -> None:
        rgb = torch.randint(0, 256, (2, 3, 4, 5), generator=_generator(), dtype=torch.uint8)
        rgb[0, :, 0, 0] = 0
        fast = separate(rgb / 255, ROWS.expand(2, 2, 3))
        for item in range(2):
            pixels = rgb[item].permute(1, 2, 0).numpy()
            slow = network_input_oracle(pixels, STAINS.numpy(), MAXIMA.numpy())
            np.testing.assert_allclose(fast[item].numpy(), slow, atol=1e-5)

    def test_each_patch_is_separated_by_its_own_slide(self) -> None:
        rgb = colored(torch.full((2, 2, 3, 3), 0.4, dtype=torch.float64)) / 255
        rows = torch.stack([ROWS, 2 * ROWS])
        he = separate(rgb, rows)
        torch.testing.assert_close(he[1], 2 * he[0])

    def test_colours_can_stand_in_for_stains(self) -> None:
        rgb = torch.rand((2, 3, 4, 4), generator=_generator())
        rows = ROWS.expand(2, 2, 3)
        assert torch.equal(view_channels(rgb, rows, "red_green"), rgb[:, [0, 1]])
        assert torch.equal(view_channels(rgb, rows, "red_blue"), rgb[:, [0, 2]])
        assert torch.equal(view_channels(rgb, rows, "he"), separate(rgb, rows))


class TestGeometry:
    def test_the_paper_crops_282_of_400_px(self) -> None:
        assert upright_side(400, "any") == 282
        assert upright_side(400, "quarter") == 400

    @given(
        side=st.integers(8, 60),
        smaller=st.integers(0, 40),
        turns=st.integers(0, 3),
        data=st.data(),
    )
    def test_quarter_turns_equal_the_sequence(
        self, side: int, smaller: int, turns: int, data: st.DataObject
    ) -> None:
        """Rotate, crop the centre, crop, mirror: one sampling gives the same pixels."""
        patch = max(side - smaller, 1)
        column, row = data.draw(st.tuples(*[st.integers(0, side - patch)] * 2))
        mirror, upend = data.draw(st.tuples(st.booleans(), st.booleans()))
        picture = _picture(side)
        expected = torch.rot90(picture, turns, dims=(2, 3))
        expected = expected[..., row : row + patch, column : column + patch]
        if mirror:
            expected = expected.flip(3)
        if upend:
            expected = expected.flip(2)
        placement = _placement(turns * math.pi / 2, (column, row), (mirror, upend))
        assert torch.equal(place(picture, placement, patch, "quarter"), expected)

    @given(turns=st.integers(-4, 4), data=st.data())
    @settings(max_examples=30)
    def test_upright_angles_equal_the_sequence_with_the_centre_crop(
        self, turns: int, data: st.DataObject
    ) -> None:
        side, patch = 40, 20
        room = upright_side(side, "any")
        inset = (side - room) // 2
        column, row = data.draw(st.tuples(*[st.integers(0, room - patch)] * 2))
        rotated = torch.rot90(_picture(side), turns, dims=(2, 3))
        centre = rotated[..., inset : inset + room, inset : inset + room]
        expected = centre[..., row : row + patch, column : column + patch]
        placement = _placement(turns * math.pi / 2, (column, row), (False, False))
        assert torch.equal(place(_picture(side), placement, patch, "any"), expected)

    @pytest.mark.parametrize("degrees", [-333.0, -17.0, 3.0, 45.0, 123.4, 359.0])
    def test_any_angle_equals_the_nearest_pixel_by_hand(self, degrees: float) -> None:
        """Turned counter-clockwise; pixels halfway between two are left out."""
        side, patch, (column, row) = 30, 16, (4, 1)
        angle = math.radians(degrees)
        crop = place(_picture(side), _placement(angle, (column, row), (True, False)), patch, "any")
        inset = (side - upright_side(side, "any")) // 2
        compared = 0
        for y, x in np.ndindex(patch, patch):
            right = inset + column + (patch - 1 - x) + 0.5 - side / 2
            up = side / 2 - (inset + row + y + 0.5)
            source_right = math.cos(angle) * right + math.sin(angle) * up
            source_up = -math.sin(angle) * right + math.cos(angle) * up
            place_x, place_y = source_right + side / 2, side / 2 - source_up
            if min(abs(place_x - round(place_x)), abs(place_y - round(place_y))) < 1e-3:
                continue
            assert crop[0, 0, y, x] == math.floor(place_y) * side + math.floor(place_x)
            compared += 1
        assert compared > 0.8 * patch * patch

    @given(
        side=st.integers(8, 200),
        share=st.floats(0.2, 1),
        rotation=st.sampled_from(["any", "quarter"]),
        seed=st.integers(0, 2**32),
    )
    def test_no_fill_survives(self, side: int, share: float, rotation: Rotation, seed: int) -> None:
        patch = max(int(share * upright_side(side, rotation)), 1)
        crops = random_crops(
            torch.ones((16, 1, side, side)), patch, rotation, _generator(seed), same_geometry=True
        )
        assert crops.shape == (16, 1, patch, patch)
        assert bool((crops == 1).all())

    @pytest.mark.parametrize("side", [17, 41, 99, 239, 400, 577])
    def test_no_fill_survives_in_the_corners_of_the_largest_crop(self, side: int) -> None:
        patch = upright_side(side, "any")
        angles = torch.linspace(-2 * math.pi, 2 * math.pi, 181)
        count = len(angles)
        placement = Placement(
            angles, torch.zeros((count, 2), dtype=torch.int64), torch.zeros((count, 2)) > 0
        )
        crops = place(torch.ones((count, 1, side, side)), placement, patch, "any")
        assert bool((crops == 1).all())

    def test_a_larger_crop_would_hold_fill(self) -> None:
        """The limit is not timid: 10 % more than it and corners are empty at 45 degrees."""
        placement = _placement(math.pi / 4, (0, 0), (False, False))
        inset = (100 - upright_side(100, "any")) // 2
        too_large = place(torch.ones((1, 1, 100, 100)), placement, 100 - 2 * inset + 8, "any")
        assert bool((too_large == 0).any())

    def test_small_stored_patches_are_refused_for_any_angle(self) -> None:
        with pytest.raises(ValueError, match=r"stored patches of 224 px give at most 158 px.*160"):
            draw_placement(1, (224, 160), "any", _generator(), CPU)
        draw_placement(1, (224, 224), "quarter", _generator(), CPU)
        with pytest.raises(ValueError, match="at most 224 px"):
            centre_crop(torch.zeros(1, 3, 224, 224), 256)

    def test_draws_cover_what_they_should(self) -> None:
        placement = draw_placement(4000, (400, 256), "any", _generator(), CPU)
        assert set(placement.corner.flatten().tolist()) == set(range(27))
        assert placement.flip.to(torch.float32).mean(dim=0).tolist() == pytest.approx(
            [0.5, 0.5], abs=0.03
        )
        turned = torch.histc(placement.angle % (2 * math.pi), 8, 0, 2 * math.pi) / 4000
        assert turned.tolist() == pytest.approx([1 / 8] * 8, abs=0.02)
        quarters = draw_placement(100, (8, 8), "quarter", _generator(), CPU).angle
        assert len(set(quarters.tolist())) == 4

    def test_channels_move_apart_unless_told_otherwise(self) -> None:
        patches = _picture(12).expand(20, 2, 12, 12)
        apart = random_crops(patches, 8, "quarter", _generator(), same_geometry=False)
        assert not torch.equal(apart[:, 0], apart[:, 1])
        together = random_crops(patches, 8, "quarter", _generator(), same_geometry=True)
        assert torch.equal(together[:, 0], together[:, 1])
        assert len({tuple(crop.flatten().tolist()) for crop in together[:, 0]}) > 15

    def test_centre_crop_is_in_the_centre(self) -> None:
        assert torch.equal(centre_crop(_picture(10), 4), _picture(10)[..., 3:7, 3:7])


def _placement(angle: float, corner: tuple[int, int], flip: tuple[bool, bool]) -> Placement:
    return Placement(torch.tensor([angle]), torch.tensor([corner]), torch.tensor([flip]))


class TestStainViews:
    def test_evaluation_recovers_the_stains_of_the_centre(self) -> None:
        """Concentrations drawn, coloured as 8-bit RGB, and found again over twice the maxima."""
        drawn = torch.rand((3, 2, 16, 16), generator=_generator()) * MAXIMA.view(1, 2, 1, 1) * 0.6
        batch = Batch(colored(drawn), ROWS.expand(3, 2, 3), torch.zeros(3, dtype=torch.int64))
        he = StainViews(StainViewConfig(patch_px=8), PLAIN).plain(batch)
        expected = (drawn / (2 * MAXIMA.view(1, 2, 1, 1)))[..., 4:12, 4:12]
        torch.testing.assert_close(he, expected.to(torch.float32), atol=0.01, rtol=0)

    def test_training_views_are_in_range_and_differ(self) -> None:
        batch = tiny_batch(3, 4)
        views = StainViews(StainViewConfig(patch_px=32), PLAIN)
        first, second = (views.random(batch, _generator(seed)) for seed in (0, 1))
        assert first.shape == (12, 2, 32, 32)
        assert 0 <= float(first.min()) <= float(first.max()) <= 1
        assert not torch.equal(first, second)
        assert torch.equal(first, views.random(batch, _generator(0)))

    def test_geometry_and_jitter_keep_the_amount_of_stain(self) -> None:
        """Flat patches stay flat; 10 % jitters move their stains by little."""
        drawn = torch.full((6, 2, 46, 46), 0.5, dtype=torch.float64)
        batch = Batch(colored(drawn), ROWS.expand(6, 2, 3), torch.zeros(6, dtype=torch.int64))
        views = StainViews(StainViewConfig(patch_px=32), PLAIN).random(batch, _generator())
        assert torch.equal(views, views[..., :1, :1].expand_as(views))
        expected = 0.5 / (2 * MAXIMA).to(torch.float32)
        assert float((views[:, :, 0, 0] / expected - 1).abs().max()) < 0.6

    @pytest.mark.parametrize("worsened", [{"blur_px": 1.5}, {"noise": 0.06}])
    def test_blur_and_noise_are_drawn_only_where_asked_for(
        self, worsened: dict[str, float]
    ) -> None:
        batch = tiny_batch(3, 4)
        sharp = StainViews(StainViewConfig(patch_px=32), PLAIN).random(batch, _generator())
        config = StainViewConfig.model_validate({"patch_px": 32, **worsened})
        views = StainViews(config, PLAIN).random(batch, _generator())
        assert 0 <= float(views.min()) <= float(views.max()) <= 1
        assert not torch.equal(views, sharp)
        # on average the same picture: neither moves pixels nor changes how much stain there is
        torch.testing.assert_close(
            views.mean(dim=(2, 3)), sharp.mean(dim=(2, 3)), atol=0.02, rtol=0
        )

    def test_normalisation_is_applied_and_stored(self) -> None:
        batch = tiny_batch(2, 2)
        config = StainViewConfig(patch_px=32)
        normalisation = Normalisation(mean=(0.1, 0.2), std=(0.5, 0.25))
        views = StainViews(config, normalisation)
        plain = StainViews(config, PLAIN)
        mean, std = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.25])
        torch.testing.assert_close(
            views.random(batch, _generator()),
            (plain.random(batch, _generator()) - mean.view(1, 2, 1, 1)) / std.view(1, 2, 1, 1),
        )
        assert set(views.state_dict()) == {"mean", "std"}

    def test_measured_normalisation_normalises(self) -> None:
        config = StainViewConfig(patch_px=46)
        batches = [tiny_batch(3, 2, seed=seed) for seed in range(3)]
        views = StainViews(config, measure_normalisation(batches, config))
        values = torch.cat([views.plain(batch) for batch in batches])
        torch.testing.assert_close(values.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            values.std(dim=(0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0
        )

    def test_normalisation_needs_patches_that_vary(self) -> None:
        config = StainViewConfig(patch_px=8)
        with pytest.raises(ValueError, match="no patch"):
            measure_normalisation([], config)
        white = Batch(
            torch.full((2, 3, 8, 8), 255, dtype=torch.uint8),
            ROWS.expand(2, 2, 3),
            torch.zeros(2, dtype=torch.int64),
        )
        with pytest.raises(ValueError, match="blank"):
            measure_normalisation([white], config)

    def test_fixed_stains_are_the_published_rows_for_every_slide(self) -> None:
        batch = tiny_batch(2, 2)
        other = Batch(batch.rgb, 3 * batch.unmix, batch.label)
        config = StainViewConfig(patch_px=32, stain_matrix="fixed")
        views = StainViews(config, PLAIN)
        assert torch.equal(views.plain(batch), views.plain(other))
        rows = torch.tensor(FIXED_UNMIX).expand(4, 2, 3)
        expected = separate(centre_crop(batch.rgb, 32) / 255, rows)
        torch.testing.assert_close(views.plain(batch), expected)

    @pytest.mark.parametrize(
        "changes", [{"patch_px": 7}, {"rotation": "all"}, {"rgb_jitter": 1.5}, {"jitter": 0.1}]
    )
    def test_impossible_choices_are_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(changes))):
            StainViewConfig(**changes)

    def test_no_patch_is_no_problem(self) -> None:
        batch = tiny_batch(2, 1)
        none = Batch(batch.rgb[:0], batch.unmix[:0], batch.label[:0])
        assert StainViews(StainViewConfig(patch_px=32), PLAIN).plain(none).shape == (0, 2, 32, 32)


class TestRgbViews:
    def test_channels_stay_together(self) -> None:
        """A grey patch stays grey through rotation, crop, flip and jitter, weak or strong."""
        grey = torch.randint(0, 256, (8, 1, 46, 46), generator=_generator(), dtype=torch.uint8)
        batch = Batch(
            grey.expand(8, 3, 46, 46), ROWS.expand(8, 2, 3), torch.zeros(8, dtype=torch.int64)
        )
        views = RgbViews(RgbViewConfig(patch_px=32, mean=(0.5, 0.5, 0.5), std=(1, 1, 1)))
        for view in (
            views.random(batch, _generator()),
            views.strong(batch, _generator(), (0.3, 1.3)),
        ):
            torch.testing.assert_close(view, view[:, :1].expand_as(view), atol=1e-3, rtol=0)

    def test_evaluation_is_the_normalised_centre(self) -> None:
        batch = tiny_batch(2, 2)
        views = RgbViews(RgbViewConfig(patch_px=32))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        expected = (batch.rgb[..., 7:39, 7:39] / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        torch.testing.assert_close(views.plain(batch), expected)

    def test_strong_views_have_a_hole_and_other_colours(self) -> None:
        batch = tiny_batch(3, 10)
        views = RgbViews(RgbViewConfig(patch_px=32))
        weak, strong = (
            views.random(batch, _generator()),
            views.strong(batch, _generator(), (0.3, 1.3)),
        )
        holes = (strong == 0).all(dim=1).to(torch.float32).mean(dim=(1, 2))
        assert 0.02 < float(holes.mean()) < 0.15
        assert float(holes.max()) <= 0.27
        changed = ((strong - weak).abs() > 0.05).any(dim=1).to(torch.float32).mean(dim=(1, 2))
        assert float((changed > 0.3).to(torch.float32).mean()) > 0.6
