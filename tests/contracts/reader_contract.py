"""What every slide reader must do, whatever library is behind it.

Subclass :class:`ReaderContract` and name the reader and the containers it opens.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.slide_files import MPP, RGB, Container, halved, picture, write_sparse_svs
from wsi_pipeline.slide.readers import Reader, open_reader
from wsi_pipeline.slide.readers.resolution import resolve_mpp

if TYPE_CHECKING:
    from wsi_pipeline.config import ReaderName


@dataclass(frozen=True)
class Case:
    """An open slide and the pixels it was written from."""

    reader: Reader
    pixels: RGB
    tolerance: int


class ReaderContract:
    """Tests of one reader; level 0 may differ from what was written by compression loss only."""

    name: ClassVar[ReaderName]
    containers: ClassVar[tuple[Container, ...]]

    @pytest.fixture(scope="class")
    @classmethod
    def cases(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Case]]:
        """Write every container once, and open it."""
        folder = tmp_path_factory.mktemp(str(cls.name))
        cases = []
        for number, container in enumerate(cls.containers):
            pixels = picture(seed=number)
            path = folder / f"{number}{container.suffix}"
            container.write(path, pixels)
            cases.append(Case(open_reader(path, cls.name), pixels, container.tolerance))
        yield cases
        for case in cases:
            case.reader.close()

    @pytest.fixture(scope="class")
    @classmethod
    def sparse(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Write a slide of 5 x 4 tiles of 64 px, of which the first and the seventh are missing."""
        path = tmp_path_factory.mktemp(f"sparse-{cls.name}") / "sparse.svs"
        write_sparse_svs(path, picture(), missing={0, 6})
        return path

    def test_level_0_holds_what_was_written(self, cases: list[Case]) -> None:
        for case in cases:
            height, width = case.pixels.shape[:2]
            read = case.reader.read(0, (0, 0), (width, height))
            loss = np.abs(read.astype(int) - case.pixels)
            assert loss.max() <= case.tolerance, case.reader.path
            assert read.dtype == np.uint8

    def test_level_1_holds_what_was_written(self, cases: list[Case]) -> None:
        # the containers with smaller levels halve even sides, so that no reader interpolates
        seen = 0
        for case in cases:
            if len(case.reader.level_sizes_wh) > 1:
                small = halved(case.pixels)
                read = case.reader.read(1, (0, 0), (small.shape[1], small.shape[0]))
                assert np.abs(read.astype(int) - small).max() <= case.tolerance
                seen += 1
        assert seen >= len(cases) // 2

    def test_levels_are_described(self, cases: list[Case]) -> None:
        for case in cases:
            reader = case.reader
            assert reader.name == self.name
            assert reader.level_sizes_wh[0] == (300, 200)
            assert reader.level_downsamples[0] == 1.0
            assert list(reader.level_downsamples) == sorted(set(reader.level_downsamples))
            assert len(reader.level_sizes_wh) == len(reader.level_downsamples)

    def test_resolution_is_found(self, cases: list[Case]) -> None:
        for case in cases:
            mpp, _ = resolve_mpp(case.reader.path, case.reader.mpp_candidates)
            assert mpp == pytest.approx(MPP, rel=1e-4)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
    )
    @given(
        which=st.integers(0, 1000),
        place=st.tuples(st.integers(-80, 320), st.integers(-80, 220)),
        size=st.tuples(st.integers(0, 150), st.integers(0, 150)),
    )
    def test_a_region_is_a_crop_of_the_slide_on_white(
        self, cases: list[Case], which: int, place: tuple[int, int], size: tuple[int, int]
    ) -> None:
        case = cases[which % len(cases)]
        reader = case.reader
        level = which % len(reader.level_sizes_wh)
        width, height = reader.level_sizes_wh[level]
        canvas = np.full((600, 700, 3), 255, np.uint8)
        canvas[100 : 100 + height, 100 : 100 + width] = reader.read(level, (0, 0), (width, height))
        (x, y), (w, h) = place, size
        expected = canvas[100 + y : 100 + y + h, 100 + x : 100 + x + w]
        np.testing.assert_array_equal(reader.read(level, place, size), expected)

    def test_outside_is_white(self, cases: list[Case]) -> None:
        for case in cases:
            far = case.reader.read(0, (10_000, -5_000), (40, 30))
            assert far.shape == (30, 40, 3)
            assert (far == 255).all()

    def test_missing_tiles_are_white_and_their_neighbours_intact(self, sparse: Path) -> None:
        with open_reader(sparse, self.name) as reader:
            read = reader.read(0, (0, 0), (300, 200))
        expected = picture()
        expected[0:64, 0:64] = 255
        expected[64:128, 64:128] = 255
        np.testing.assert_array_equal(read, expected)

    def test_what_is_returned_belongs_to_the_caller(self, cases: list[Case]) -> None:
        for case in cases:
            first = case.reader.read(0, (0, 0), (64, 64))
            kept = first.copy()
            first[:] = 0
            np.testing.assert_array_equal(case.reader.read(0, (0, 0), (64, 64)), kept)

    def test_threads_read_the_same_pixels(self, cases: list[Case]) -> None:
        places = [(x, y) for y in range(-10, 200, 37) for x in range(-10, 300, 41)] * 2
        for case in cases:
            reader = case.reader
            alone = [reader.read(0, xy, (70, 50)) for xy in places]
            with (
                open_reader(reader.path, self.name) as fresh,
                ThreadPoolExecutor(4) as pool,
            ):
                together = pool.map(lambda xy, fresh=fresh: fresh.read(0, xy, (70, 50)), places)
                for one, other in zip(alone, together, strict=True):
                    np.testing.assert_array_equal(one, other)

    def test_a_closed_reader_says_so(self, sparse: Path) -> None:
        reader = open_reader(sparse, self.name)
        reader.close()
        reader.close()
        with pytest.raises(ValueError, match="closed"):
            reader.read(0, (0, 0), (1, 1))

    def test_wrong_requests_are_refused(self, cases: list[Case]) -> None:
        reader = cases[0].reader
        for level in (-1, len(reader.level_sizes_wh)):
            with pytest.raises(ValueError, match="levels 0 to"):
                reader.read(level, (0, 0), (1, 1))
        with pytest.raises(ValueError, match="negative"):
            reader.read(0, (0, 0), (-1, 1))
