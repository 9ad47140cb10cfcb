"""Learning from strokes: which tiles they label, what is learnt, and what it is worth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from tests.viewed import colours, make_results, pure_tiles, view_of
from wsi_pipeline.annotations import Annotation
from wsi_pipeline.cli import main
from wsi_pipeline.config import PredictConfig
from wsi_pipeline.errors import ConfigError, FeaturesError, SlideReadError
from wsi_pipeline.learn import (
    ClassName,
    LabelledTiles,
    SlideLabels,
    compute_features,
    fit_head,
    fit_projection,
    judge_by_group,
    label_by_strokes,
    learn,
    learn_folder,
    suggest_tiles,
)
from wsi_pipeline.learn.head import PENALTY, find_temperature, hold_out
from wsi_pipeline.learn.judge import wilson_interval
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.slide.open import Slide, open_slide
from wsi_pipeline.store import PatchStore
from wsi_pipeline.synthetic import write_areas
from wsi_pipeline.view.classes import classes_of

if TYPE_CHECKING:
    from tests.known import KnownSlide

EXTENT = 10.0
LATTICE = np.array([(10 * x, 10 * y) for y in range(12) for x in range(12)], dtype=np.int64)
CLASSES = ("tumor", "stroma")


def stroke(name: str, left: float, top: float, right: float, bottom: float) -> Annotation:
    return Annotation(geometry=shapely.box(left, top, right, bottom), name=name)


def labelled(*areas: Annotation) -> dict[tuple[int, int], tuple[int, int]]:
    """Class and region of the labelled tiles, by their corner."""
    found = label_by_strokes(areas, CLASSES, LATTICE, EXTENT)
    places = map(tuple, LATTICE[found.tile].tolist())
    values = zip(found.label.tolist(), found.region.tolist(), strict=True)
    return dict(zip(places, values, strict=True))


def test_a_stroke_labels_the_tiles_it_covers_by_half_or_more() -> None:
    found = labelled(stroke("stroma", 10, 10, 24, 15), stroke("tumor", 50, 50, 80, 55))

    assert found == {(10, 10): (1, 0), (50, 50): (0, 1), (60, 50): (0, 1), (70, 50): (0, 1)}


def test_a_stroke_too_thin_for_any_tile_labels_the_one_it_covers_most() -> None:
    assert set(labelled(stroke("tumor", 1, 31, 14, 32))) == {(0, 30)}


def test_where_strokes_overlap_the_later_one_counts() -> None:
    found = labelled(stroke("tumor", 0, 0, 20, 10), stroke("stroma", 10, 0, 30, 10))

    assert {place: label for place, (label, _) in found.items()} == {
        (0, 0): 0,
        (10, 0): 1,
        (20, 0): 1,
    }


def test_names_that_are_no_class_have_no_effect() -> None:
    assert labelled(stroke("fat", 0, 0, 50, 50)) == {}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.booleans()), max_size=9))
def test_regions_are_the_strokes_connected_through_small_gaps(
    corners: list[tuple[int, int, bool]],
) -> None:
    areas = [stroke(CLASSES[b], x, y, x + 12, y + 12) for x, y, b in corners]
    found = label_by_strokes(areas, CLASSES, LATTICE, EXTENT)

    clusters: list[list[Annotation]] = []
    for area in areas:  # as slow and plain as can be
        near = [
            cluster
            for cluster in clusters
            if any(a.geometry.distance(area.geometry) <= 2 * EXTENT for a in cluster)
        ]
        clusters = [cluster for cluster in clusters if cluster not in near]
        clusters.append([area, *(a for cluster in near for a in cluster)])
    assert len(set(found.region.tolist())) <= len(clusters)
    for tile, region in zip(found.tile, found.region, strict=True):
        box = shapely.box(*LATTICE[tile], *(LATTICE[tile] + EXTENT))
        homes = [c for c in clusters if any(a.geometry.intersects(box) for a in c)]
        mates = LATTICE[found.tile[found.region == region]] + EXTENT / 2
        assert any(
            all(any(a.geometry.distance(shapely.Point(m)) <= EXTENT for a in c) for m in mates)
            for c in homes
        )


def clouds(k: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(k), each)
    centres = 6 * rng.standard_normal((k, 12))
    return (centres[label] + rng.standard_normal((k * each, 12))).astype(np.float32), label


@pytest.mark.parametrize("k", [2, 3])
def test_a_head_gives_the_probabilities_of_logistic_regression(k: int) -> None:
    rows, label = clouds(k, 20)
    oracle = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=200, tol=1e-3)
    oracle.fit(rows, label)

    given = fit_head(rows, label, k).predict(rows)

    np.testing.assert_allclose(given, oracle.predict_proba(rows), atol=1e-5)


def test_a_class_without_labels_has_probability_zero() -> None:
    rows, label = clouds(2, 10)

    given = fit_head(rows, 2 * label, 4).predict(rows)

    assert given[:, [1, 3]].max() == 0
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-5)


def test_a_projection_keeps_what_tells_tiles_apart() -> None:
    rows, label = clouds(3, 100)
    wide = np.concatenate([rows * 1000 + 5, np.zeros((300, 4), np.float32)], axis=1)

    projected = fit_projection(wide).apply(wide)

    assert np.isfinite(projected).all()
    assert (projected**2).mean() == pytest.approx(1, rel=0.05)
    assert (fit_head(projected, label, 3).predict(projected).argmax(axis=1) == label).all()


def test_the_temperature_that_made_logits_too_sure_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20_000, 3))
    label = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)

    assert find_temperature(4 * logits, label) == pytest.approx(4, rel=0.1)
    assert find_temperature(np.empty((0, 3)), np.empty(0, np.int64)) == 1


def test_neighbouring_tiles_do_not_judge_each_other() -> None:
    """Features that tell regions and nothing else: told apart tile by tile, not by region."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 10)
    label = rng.integers(0, 2, 40)[group]
    noisy = (5 * rng.standard_normal((40, 60)))[group] + rng.standard_normal((400, 60))
    rows = noisy.astype(np.float32)

    def accuracy(by: np.ndarray) -> float:
        held = hold_out(rows, label, by, 2)
        return float((held.logits.argmax(axis=1) == label[held.row]).mean())

    assert accuracy(rng.permutation(400)) > 0.95
    assert accuracy(group) < 0.65


def test_accuracy_counts_regions_not_tiles() -> None:
    label = np.array([0] * 90 + [0] * 5 + [1] * 5)
    predicted = np.array([0] * 90 + [1] * 5 + [1] * 5)
    group = np.array([0] * 90 + [1] * 5 + [2] * 5)

    found = judge_by_group(label, predicted, group, CLASSES, "region")

    assert found.accuracy == pytest.approx(2 / 3)
    assert (found.low, found.high) == wilson_interval(2 / 3, 3)
    assert found.confusion == [[90, 5], [0, 5]]
    assert found.recall == pytest.approx({"tumor": 90 / 95, "stroma": 1})
    assert (found.groups, found.tiles) == (3, 100)


def test_wilson_intervals_solve_their_equation() -> None:
    for share, count in [(0.5, 4), (1.0, 7), (0.9, 100)]:
        for end in wilson_interval(share, count):
            if 0 < end < 1:
                z = abs(share - end) / np.sqrt(end * (1 - end) / count)
                assert z == pytest.approx(1.959964, rel=1e-4)


def as_slide(rows: np.ndarray, label: np.ndarray, region: np.ndarray) -> SlideLabels:
    tiles = LabelledTiles(tile=np.arange(len(label)), label=label, region=region)
    return SlideLabels(tiles=tiles, features=rows)


def test_slides_are_held_out_where_every_class_is_on_three_of_them() -> None:
    rows, label = clouds(2, 30)
    classes = [ClassName(name=name, color="#000000") for name in CLASSES]
    projection = fit_projection(rows)
    parts = [slice(i, None, 3) for i in range(3)]
    slides = [as_slide(rows[p], label[p], np.zeros(len(label[p]), np.int64)) for p in parts]

    judged = learn(slides, classes, projection).judgement
    one = learn([as_slide(rows, label, np.repeat(np.arange(6), 10))], classes, projection).judgement

    assert (judged.by, judged.groups) == ("slide", 3)
    assert (one.by, one.groups) == ("region", 6)
    assert judged.accuracy == one.accuracy == 1


def test_classes_of_one_region_are_said_not_to_be_judged() -> None:
    rows, label = clouds(2, 10)
    region = np.concatenate([np.repeat([0, 1], 5), np.full(10, 2)])
    classes = [ClassName(name=name, color="#000000") for name in CLASSES]

    judged = learn([as_slide(rows, label, region)], classes, fit_projection(rows)).judgement

    assert judged.unjudged == ("stroma",)
    assert judged.groups == 2


def test_labels_of_one_class_are_not_enough() -> None:
    rows, label = clouds(2, 5)
    classes = [ClassName(name=name, color="#000000") for name in CLASSES]
    with pytest.raises(ConfigError, match="only 'tumor' has labels"):
        learn([as_slide(rows, 0 * label, label)], classes, fit_projection(rows))
    with pytest.raises(ConfigError, match="no tile has a label"):
        learn([as_slide(rows[:0], label[:0], label[:0])], classes, fit_projection(rows))


def test_suggested_tiles_are_uncertain_new_and_unlike_each_other() -> None:
    rows, label = clouds(4, 100, seed=5)
    prob = np.full((400, 2), 0.5, np.float32)
    prob[label == 0] = (0.99, 0.01)  # the model is sure of the first cloud
    have = np.flatnonzero(label == 1)[:5]  # and the second has labels

    chosen = suggest_tiles(prob, rows, have, count=2)

    assert set(label[chosen]) == {2, 3}
    assert len(set(suggest_tiles(prob, rows, have, count=50).tolist())) == 50
    assert set(suggest_tiles(prob, rows, np.arange(399), count=8).tolist()) == {399}
    assert len(suggest_tiles(prob, rows, np.arange(400), count=8)) == 0


def test_features_are_computed_once_from_the_slide(known_slide: KnownSlide, tmp_path: Path) -> None:
    out = make_results(known_slide, tmp_path / "out")
    store = PatchStore.open(out / "known" / "patches.zarr")
    assert not store.has_rgb
    config = PredictConfig(device="cpu")
    path = tmp_path / "known.npz"
    with open_slide(known_slide.path) as slide:
        first = compute_features(store, slide, colours(), config, path)
        x, y = store.grid.level_xy[3].tolist()
        pixels = slide.read_patch(store.grid.level, (x, y), store.grid.read_px, 64) / 255
    np.testing.assert_allclose(first[3, :3], pixels.mean(axis=(0, 1)), atol=1e-5)
    written = path.stat().st_mtime_ns

    with open_slide(known_slide.path) as slide:
        again = compute_features(store, slide, colours(), config, path)
        assert path.stat().st_mtime_ns == written
        path.write_bytes(path.read_bytes()[:1000])  # damaged
        mended = compute_features(store, slide, colours(), config, path)
    assert (again == first).all()
    assert (mended == first).all()


def test_a_slide_that_cannot_be_read_is_left_out_unless_it_has_labels(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    out = make_results(known_slide, tmp_path / "out", "a", "b")
    write_areas(out / "a" / "labels.geojson", known_slide.truth)

    def open_one(path: Path, *given: object, slide_id: str) -> Slide:
        if slide_id == "b":
            raise SlideReadError("it is gone", path=path)
        return open_slide(path, slide_id=slide_id)

    view = replace(view_of(out), open_one=open_one)
    task, classes = view.learning(view.slides), classes_of(view.slides)
    told: dict[str, str] = {}

    def leave_out(name: str, error: Exception) -> None:
        told[name] = str(error)

    _, maps = learn_folder(task, classes, leave_out=leave_out)

    assert [name for name, _ in maps] == ["a"]
    assert told == {"b": "it is gone"}
    write_areas(out / "b" / "labels.geojson", known_slide.truth)
    with pytest.raises(SlideReadError, match="gone"):
        learn_folder(task, classes, leave_out=leave_out)


def test_an_encoder_of_stains_is_refused(known_slide: KnownSlide, tmp_path: Path) -> None:
    out = make_results(known_slide, tmp_path / "out")
    store = PatchStore.open(out / "known" / "patches.zarr")
    stained = replace(colours(), spec=replace(colours().spec, input="he"))
    with (
        open_slide(known_slide.path) as slide,
        pytest.raises(FeaturesError, match="an encoder of RGB patches"),
    ):
        compute_features(store, slide, stained, PredictConfig(), tmp_path / "f.npz")


@pytest.mark.slow
def test_the_command_learns_the_classes_of_the_known_slide(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    out = make_results(known_slide, tmp_path / "out")
    write_areas(tmp_path / "areas.geojson", known_slide.truth)

    command = ["learn", str(out), "--labels", str(tmp_path / "areas.geojson"), "--json"]
    done = CliRunner().invoke(main, command, catch_exceptions=False)

    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert set(answer["labelled_tiles"]) >= {"tumor", "stroma"}
    predictions = read_predictions(Path(answer["files"]["known"]["predictions"]))
    store = PatchStore.open(out / "known" / "patches.zarr")
    assert (predictions.xy == store.xy).all()
    names = pure_tiles(known_slide, store.xy, 256)
    guessed = np.array(predictions.class_names)[predictions.label]
    assert (guessed == names)[names != ""].mean() > 0.95
    assert Path(answer["files"]["known"]["heatmap"]).exists()


def test_one_file_for_several_slides_is_refused(known_slide: KnownSlide, tmp_path: Path) -> None:
    out = make_results(known_slide, tmp_path / "out", "a", "b")
    write_areas(tmp_path / "areas.geojson", known_slide.truth)

    done = CliRunner().invoke(main, ["learn", str(out), "--labels", f"{tmp_path}/areas.geojson"])

    assert done.exit_code == 1
    assert "may belong to any of the 2 slides" in done.output
