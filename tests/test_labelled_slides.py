"""Annotated slides -> patch stores with labels and patients, from Python and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from click.testing import CliRunner, Result
from shapely.geometry import Point, box, mapping

from wsi_pipeline.cli import main
from wsi_pipeline.config import PipelineConfig, dump_config, load_config
from wsi_pipeline.errors import AnnotationError, ConfigError, StoreError, StoreExistsError
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.run.one_store import predict_slide
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.store import PatchStore

if TYPE_CHECKING:
    from tests.known import KnownSlide
    from wsi_pipeline.predict.trained import TrainedModel

TUMOUR, STROMA = box(300, 300, 1100, 1100), box(900, 900, 1700, 1700)
MAP = '[classes]\nstroma = ["Stroma"]\ntumour = ["EN", "SN"]\n'
CLASSES = {"stroma": ["Stroma"], "tumour": ["EN", "SN"]}


def write_areas(path: Path, **areas: Any) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": mapping(shape),
            "properties": {"classification": {"name": name}},
        }
        for name, shape in areas.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def areas(tmp_path: Path) -> Path:
    return write_areas(tmp_path / "areas" / "known.geojson", EN=TUMOUR, Stroma=STROMA)


def config(stride: int = 128, **label: Any) -> PipelineConfig:
    return load_config(
        overrides={
            "tile": {"patch_size": 128, "stride": stride, "min_tissue": 0.3},
            "label": {"classes": CLASSES, **label},
            "store": {"shard_patches": 32},
        }
    )


def store_of(
    slide: KnownSlide, areas: Path, path: Path, options: PipelineConfig, group: str | None = None
) -> PatchStore:
    job = SlideJob(path=slide.path, slide_id="P1-known", labels=areas, group=group)
    return preprocess_slide(job, path, options).store


def test_the_store_holds_the_class_of_every_tile(
    known_slide: KnownSlide, areas: Path, tmp_path: Path
) -> None:
    store = store_of(known_slide, areas, tmp_path / "p.zarr", config())

    assert store.label_names == ("stroma", "tumour")
    assert set(store.label) == {0, 1}
    for (x, y), label in zip(store.xy + store.extent / 2, store.label, strict=True):
        # the class that is listed first wins where areas overlap
        assert STROMA.contains(Point(x, y)) if label == 0 else TUMOUR.contains(Point(x, y))
        assert label == 0 or not STROMA.contains(Point(x, y))
    assert store.funnel()["unlabelled"] > 0


def test_tiles_laid_in_areas_come_back_from_the_store(
    known_slide: KnownSlide, areas: Path, tmp_path: Path
) -> None:
    options = config(64, label_mode="containment", overlaps="both")
    store = store_of(known_slide, areas, tmp_path / "p.zarr", options)

    store.verify()
    assert store.grid.corners is not None
    assert np.array_equal(store.grid.xy, store.xy)
    assert len(store.label) == len(store) == len(store.grid)
    for (x, y), label in zip(store.xy, store.label, strict=True):
        tile = box(x, y, x + store.extent, y + store.extent)
        assert (STROMA, TUMOUR)[label].contains(tile)
    assert (np.diff(np.unique(store.xy[store.label == 1, 0])) == 64).all()


def test_tiles_off_the_lattice_make_no_heatmap(
    known_slide: KnownSlide, areas: Path, tmp_path: Path
) -> None:
    store = store_of(known_slide, areas, tmp_path / "p.zarr", config(label_mode="containment"))
    unused = cast("TrainedModel", object())
    with pytest.raises(StoreError, match=r"make no heatmap.*containment"):
        predict_slide(store, unused, PipelineConfig().predict)


def test_one_stain_matrix_serves_labelled_and_other_tiles(
    known_slide: KnownSlide, areas: Path, tmp_path: Path
) -> None:
    inside, outside = (
        store_of(known_slide, areas, tmp_path / f"{which}.zarr", config(label_tiles=which))
        for which in ("labelled", "outside")
    )
    assert np.array_equal(inside.stain.matrix.vectors, outside.stain.matrix.vectors)
    assert (outside.label == -1).all()
    assert not {tuple(xy) for xy in inside.xy} & {tuple(xy) for xy in outside.xy}


def test_the_patient_comes_from_the_table_or_the_name(
    known_slide: KnownSlide, areas: Path, tmp_path: Path
) -> None:
    by_name = store_of(known_slide, areas, tmp_path / "a.zarr", config(group="P."))
    given = store_of(known_slide, areas, tmp_path / "b.zarr", config(group="P."), group="Ann")
    assert set(by_name.group) == {"P1"}
    assert set(given.group) == {"Ann"}
    with pytest.raises(ConfigError, match="finds no group"):
        store_of(known_slide, areas, tmp_path / "c.zarr", config(group="Q."))


def test_other_annotations_make_another_store(
    known_slide: KnownSlide, areas: Path, tmp_path: Path
) -> None:
    path = tmp_path / "p.zarr"
    store_of(known_slide, areas, path, config())
    assert len(store_of(known_slide, areas, path, config()))
    write_areas(areas, EN=TUMOUR)
    with pytest.raises(StoreExistsError, match="labels a file of content"):
        store_of(known_slide, areas, path, config())


def test_a_name_in_no_class_fails_the_slide(
    known_slide: KnownSlide, areas: Path, tmp_path: Path
) -> None:
    write_areas(areas, EN=TUMOUR, Ink=STROMA)
    with pytest.raises(AnnotationError, match=r"known\.geojson .*'Ink' \(1\)"):
        store_of(known_slide, areas, tmp_path / "p.zarr", config())


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_each_slide_takes_its_own_file_of_any_format(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "b.svs", tmp_path / "c.svs")
    touch(*(tmp_path / "labels" / name for name in ("a.geojson", "b.xml", "c.json", "a.json")))

    jobs = find_slides([str(tmp_path)], labels=tmp_path / "labels")

    assert [job.labels.name for job in jobs if job.labels] == ["a.geojson", "b.xml", "c.json"]


def test_a_slide_without_its_file_is_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "b.svs", tmp_path / "labels" / "a.geojson")
    a, b = find_slides([str(tmp_path)], labels=tmp_path / "labels")
    assert (a.labels, b.labels) == (tmp_path / "labels" / "a.geojson", None)


def test_labels_of_other_slides_alone_are_a_slip(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "b.svs", tmp_path / "labels" / "c.geojson")
    with pytest.raises(ConfigError, match=r"no slide has an annotation file .* a\.geojson"):
        find_slides([str(tmp_path)], labels=tmp_path / "labels")


def test_a_slide_table_names_labels_and_patients(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("path,labels,group\na.svs,x/1.json,Ann\nb.svs,,\n")
    first, second = find_slides([str(table)])
    assert (first.labels, first.group) == (tmp_path / "x" / "1.json", "Ann")
    assert (second.labels, second.group) == (None, None)


def test_the_label_map_is_written_and_read_with_the_configuration(tmp_path: Path) -> None:
    options = config(priority=["tumour", "stroma"], ignored=["a b", 'c"d'], group="P.")
    file = tmp_path / "all.toml"
    file.write_text(dump_config(options))
    assert load_config(file) == options


def run_command(slide: KnownSlide, out: Path, *options: str) -> Result:
    arguments = ["preprocess", str(slide.path), "--out", str(out), "--quiet", *options]
    return CliRunner().invoke(main, [*arguments, "--patch-size", "128", "--min-tissue", "0.3"])


def test_the_command_labels_tiles(known_slide: KnownSlide, areas: Path, tmp_path: Path) -> None:
    label_map = tmp_path / "map.toml"
    label_map.write_text(MAP + "[unknown]\nkey = 1\n")
    labels = ["--labels", str(areas.parent), "--label-map", str(label_map), "--group", "kn.w"]
    refused = run_command(known_slide, tmp_path / "out", *labels)
    assert refused.exit_code == 1
    assert "label.unknown" in refused.output

    label_map.write_text('label_mode = "majority"\npriority = ["tumour", "stroma"]\n' + MAP)
    done = run_command(known_slide, tmp_path / "out", *labels, "--label-mode", "centre")
    assert done.exit_code == 0, done.output
    store = PatchStore.open(tmp_path / "out" / "known" / "patches.zarr")
    assert set(store.group) == {"know"}
    assert store.config["label"]["label_mode"] == "centre"
    centres = store.xy + store.extent / 2
    both = [TUMOUR.intersects(Point(xy)) and STROMA.intersects(Point(xy)) for xy in centres]
    assert (store.label[np.array(both)] == 1).all()
    assert any(both)
