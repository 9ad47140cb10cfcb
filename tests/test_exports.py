"""Every export, opened by the library that reads it, against the predictions it was made of."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import anndata
import highdicom
import numpy as np
import openslide
import pytest
import shapely
import tifffile
import yaozarrs
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import shape as to_shape

from tests.passports import some_passport
from tests.results import make_result
from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.errors import ConfigError, ExportError
from wsi_pipeline.registry import Registry
from wsi_pipeline.results.class_map import ClassRule, NoClass
from wsi_pipeline.results.export.anndata_file import build_anndata
from wsi_pipeline.results.export.attention import TileAttention, write_attention_geojson
from wsi_pipeline.results.export.features import write_features
from wsi_pipeline.results.export.optional import import_optional
from wsi_pipeline.results.export.registry import EXPORTS, Export
from wsi_pipeline.results.heatmap import one_per_place
from wsi_pipeline.results.pictures import draw_classes
from wsi_pipeline.results.pictures.sheet import MARGIN_PX, PANEL_PX, TITLE_PX
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.store.features import SlideFeatures
from wsi_pipeline.types import Area, DicomImage

MM2 = (0.5 / 1000) ** 2
"""Square millimetres of a level-0 pixel."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SlideResult:
    return make_result(tmp_path_factory.mktemp("results"))


def exported(name: str, folder: Path, result: SlideResult) -> Path:
    export = EXPORTS.get(name)
    path = folder / export.file.format(slide_id=result.slide_id)
    export.write(path, result)
    return path


def features_in(path: Path) -> list[dict[str, Any]]:
    """Parse a collection as strictly as the standard has it."""
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert document["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = document["features"]
    return features


def as_qupath_reads(feature: dict[str, Any]) -> dict[str, Any]:
    """Check one object by the rules by which QuPath parses it, and return its properties."""
    assert feature["type"] == "Feature"
    geometry = to_shape(feature["geometry"])
    assert geometry.is_valid
    assert geometry.geom_type in ("Polygon", "MultiPolygon")
    if "id" in feature:
        assert str(UUID(feature["id"])) == feature["id"], "QuPath takes ids that are UUIDs only"
    properties: dict[str, Any] = feature["properties"]
    assert properties["objectType"] in ("annotation", "detection", "tile", "tmaCore")
    color = properties["classification"]["color"]
    assert len(color) == 3
    assert all(isinstance(part, int) and 0 <= part <= 255 for part in color)
    assert isinstance(properties["classification"]["name"], str)
    for name, value in properties["measurements"].items():
        assert isinstance(name, str)
        assert isinstance(value, (int, float)), "measurements are numbers"
    return properties


@pytest.mark.parametrize("name", ["geojson", "regions", "tissue"])
def test_objects_follow_the_field_rules_of_qupath(
    tmp_path: Path, result: SlideResult, name: str
) -> None:
    features = features_in(exported(name, tmp_path, result))
    assert features
    kinds = {as_qupath_reads(feature)["objectType"] for feature in features}
    assert kinds == {"tile" if name == "geojson" else "annotation"}
    ids = [feature["id"] for feature in features if "id" in feature]
    assert len(set(ids)) == len(ids)


def test_regions_are_the_classes_clipped_to_tissue(tmp_path: Path, result: SlideResult) -> None:
    features = features_in(exported("regions", tmp_path, result))
    found = result.predictions
    tissue = shapely.box(30, 20, 90, 60)
    by_class = result.areas[0].class_mm2
    for index, name in enumerate(found.class_names):
        tiles = [
            shapely.box(x, y, x + 8, y + 8) for x, y in found.xy[found.label == index].tolist()
        ]
        expected = shapely.union_all(tiles).intersection(tissue)
        own = [f for f in features if f["properties"]["classification"]["name"] == name]
        shapes = [to_shape(f["geometry"]) for f in own]
        assert shapely.union_all(shapes).equals(expected)
        measured = sum(f["properties"]["measurements"]["area mm2"] for f in own)
        assert measured == pytest.approx(expected.area * MM2) == pytest.approx(by_class[name])


def test_tissue_comes_back_as_it_was(tmp_path: Path, result: SlideResult) -> None:
    (piece,) = features_in(exported("tissue", tmp_path, result))
    assert piece["properties"]["name"] == "piece 1"
    assert piece["properties"]["measurements"] == {
        "area mm2": pytest.approx(2400 * MM2),
        "piece": 1,
    }
    (area,) = read_annotations(tmp_path / "tissue.geojson")
    assert area.name == "Tissue"
    assert area.geometry.equals(shapely.box(30, 20, 90, 60))


def test_the_mask_is_a_picture_too(tmp_path: Path, result: SlideResult) -> None:
    path = exported("tissue-png", tmp_path, result)
    image = openslide.ImageSlide(path)
    values = np.asarray(image.read_region((0, 0), 0, image.dimensions))[..., 0]
    assert_array_equal(values == 255, result.records.areas == Area.TISSUE)


def test_tables_have_the_columns_of_wsinfer(tmp_path: Path, result: SlideResult) -> None:
    path = exported("csv", tmp_path, result)
    assert path.name == "slide-1.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = result.predictions
    names = [f"prob_{name}" for name in found.class_names]
    assert list(rows[0]) == ["minx", "miny", "width", "height", *names]
    assert [(int(r["minx"]), int(r["miny"])) for r in rows] == [tuple(p) for p in found.xy.tolist()]
    assert {(r["width"], r["height"]) for r in rows} == {("8", "8")}
    numbers = [[np.float32(row[name]) for name in names] for row in rows]
    assert_array_equal(np.array(numbers, dtype=np.float32), found.prob)


def test_areas_are_listed_for_the_slide_and_each_piece(tmp_path: Path, result: SlideResult) -> None:
    with exported("areas", tmp_path, result).open(newline="") as file:
        whole, piece = csv.DictReader(file)
    assert (whole["slide_id"], whole["piece"], piece["piece"]) == ("slide-1", "", "1")
    assert float(whole["tissue_mm2"]) == pytest.approx(2400 * MM2, abs=1e-6)
    names = result.predictions.class_names
    classified = sum(float(whole[f"{name}_mm2"]) for name in names)
    assert classified + float(whole["unpredicted_mm2"]) == pytest.approx(2400 * MM2, abs=1e-5)
    assert sum(float(whole[f"{name}_share"]) for name in names) == pytest.approx(1, abs=1e-5)
    assert {**whole, "piece": "1"} == piece


def test_probabilities_come_back_from_ome_tiff(tmp_path: Path, result: SlideResult) -> None:
    expected = np.moveaxis(result.heatmap.values, -1, 0)
    with tifffile.TiffFile(exported("ome-tiff-float", tmp_path, result)) as file:
        assert_array_equal(file.series[0].asarray(), expected)
    with tifffile.TiffFile(exported("ome-tiff", tmp_path, result)) as file:
        series = file.series[0]
        assert series.axes == "CYX"
        assert series.dtype == np.uint8
        assert_array_equal(series.asarray(), np.rint(np.nan_to_num(expected) * 255))
        about = tifffile.xml2dict(file.ome_metadata or "")["OME"]["Image"]["Pixels"]
    assert about["PhysicalSizeX"] == about["PhysicalSizeY"] == 8 * 0.5
    assert [channel["Name"] for channel in about["Channel"]] == list(result.heatmap.class_names)
    colors = [channel["Color"] & 0xFFFFFFFF for channel in about["Channel"]]
    assert [f"#{color >> 8:06x}" for color in colors] == list(result.heatmap.class_colors)


def test_openslide_reads_the_bytes(tmp_path: Path, result: SlideResult) -> None:
    with openslide.OpenSlide(exported("ome-tiff", tmp_path, result)) as slide:
        read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., 0]
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(4.0)
    expected = np.rint(np.nan_to_num(result.heatmap.values[..., 0]) * 255)
    assert_array_equal(read, expected)


def test_ome_zarr_is_valid_and_holds_patches_and_probabilities(
    tmp_path: Path, result: SlideResult
) -> None:
    path = exported("ome-zarr", tmp_path, result)
    yaozarrs.validate_zarr_store(path)
    for image in ("image", "heatmap", "image/labels/tissue", "image/labels/classes"):
        yaozarrs.validate_zarr_store(path / image)
    group = zarr.open_group(path, mode="r")
    stains = np.asarray(group["image/0"])
    assert stains.shape == (2, 80, 120)
    covered = np.zeros((80, 120), dtype=np.bool_)
    patches = result.store.read_he(0, len(result.store))
    for (x, y), patch in zip(result.store.xy.tolist(), patches, strict=True):
        assert_array_equal(stains[:, y : y + 8, x : x + 8], patch)
        covered[y : y + 8, x : x + 8] = True
    assert not stains[:, ~covered].any()
    assert_array_equal(np.asarray(group["heatmap/0"]), np.moveaxis(result.heatmap.values, -1, 0))
    assert_array_equal(np.asarray(group["image/labels/tissue/0"]), result.pieces.labels)


def test_anndata_has_a_row_per_tile(tmp_path: Path, result: SlideResult) -> None:
    data = anndata.read_h5ad(exported("anndata", tmp_path, result))
    found = result.predictions
    assert_array_equal(data.X, found.prob)
    assert list(data.var_names) == list(found.class_names)
    assert_array_equal(data.obsm["spatial"], found.xy + 4)
    assert_allclose(data.obsm["spatial_um"], (found.xy + 4) * 0.5)
    assert data.obs["label"].tolist() == [found.class_names[label] for label in found.label]
    assert_array_equal(data.obs["tissue_fraction"], result.records.tissue_fraction)
    assert set(data.obs["piece"]) == {1}
    assert set(data.obs["stain_verdict"]) == {"ok"}
    about = json.loads(data.uns["wsi_pipeline"])
    assert found.origin is not None
    assert about["run_id"] == found.origin.run_id
    assert (about["model"], about["slide_mpp"]) == ("model", 0.5)


def test_anndata_takes_features(tmp_path: Path, result: SlideResult) -> None:
    values = np.random.default_rng(0).random((len(result.predictions), 5)).astype(np.float32)

    def of(xy: Any) -> SlideFeatures:
        passport = some_passport(features=5)
        return SlideFeatures(slide_id="slide-1", features=values, xy=xy, passport=passport)

    file = write_features(tmp_path, of(result.store.xy))
    own = SlideResult(records=result.records, found=result.found, features=file)
    data = anndata.read_h5ad(exported("anndata", tmp_path, own))
    assert_array_equal(data.X, values)
    assert_allclose(data.obs["prob_stroma"], result.predictions.prob[:, 1])
    write_features(tmp_path, of(result.store.xy + 1))
    with pytest.raises(ExportError, match="has not the features of the 40 tiles of slide-1"):
        exported("anndata", tmp_path, own)


def test_highdicom_reads_the_probabilities(tmp_path: Path, result: SlideResult) -> None:
    read = highdicom.seg.segread(exported("dicom", tmp_path, result))
    assert [s.segment_label for s in read.SegmentSequence] == list(result.heatmap.class_names)
    values = read.get_total_pixel_matrix(combine_segments=False, rescale_fractional=True)
    assert_allclose(values, np.nan_to_num(result.heatmap.values), atol=0.51 / 255)
    (measures,) = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.PixelSpacing == [0.004, 0.004]
    again = highdicom.seg.segread(exported("dicom", tmp_path, result))
    assert again.SOPInstanceUID == read.SOPInstanceUID


class OfDicom:
    """Records of a slide that is DICOM."""

    def __init__(self, records: Any, dicom: DicomImage) -> None:
        self._records = records
        self.slide = replace(records.slide, dicom=dicom)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)


def test_a_segmentation_refers_to_its_dicom_slide_in_its_coordinates(
    tmp_path: Path, result: SlideResult
) -> None:
    known = DicomImage(
        study="1.2.3",
        series="1.2.3.4",
        instance="1.2.3.4.5",
        frame_of_reference="1.2.9",
        origin_mm=(25.0, 50.0),
        orientation=(0.0, -1.0, 0.0, -1.0, 0.0, 0.0),
    )
    own = SlideResult(records=OfDicom(result.records, known), found=result.found)
    read = highdicom.seg.segread(exported("dicom", tmp_path, own))

    (series,) = read.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    assert (read.StudyInstanceUID, read.FrameOfReferenceUID) == ("1.2.3", "1.2.9")
    assert (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID) == ("1.2.3.4", "1.2.3.4.5")
    assert read.SeriesInstanceUID != "1.2.3.4"
    assert read.PatientID == ""
    assert "no DICOM image" not in read.ContentDescription
    # in um from the first pixel's centre: down the slide is -x, to its right -y
    pixels = highdicom.spatial.PixelToReferenceTransformer.for_image(
        read, for_total_pixel_matrix=True
    )
    centre = (result.heatmap.cell_px - 1) / 2 * result.mpp
    cell = result.heatmap.cell_px * result.mpp
    found = pixels(np.array([[0, 0], [1, 0], [0, 2]]))[:, :2] * 1000
    expected = [[centre, centre], [centre, centre + cell], [centre + 2 * cell, centre]]
    assert_allclose(found, np.array([25_000, 50_000]) - expected, atol=1e-3)

    other = highdicom.seg.segread(exported("dicom", tmp_path, result))
    assert "refers to no DICOM image" in other.ContentDescription


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler")  # within SpatialData
def test_spatialdata_reads_tiles_and_tissue(tmp_path: Path, result: SlideResult) -> None:
    spatialdata = pytest.importorskip("spatialdata", reason="an optional reader: not installed")
    data = spatialdata.read_zarr(exported("spatialdata", tmp_path, result))
    assert_array_equal(data.tables["table"].X, result.predictions.prob)
    assert_array_equal(np.asarray(data.labels["tissue"]), result.pieces.labels)
    squares = data.shapes["tiles"].geometry
    assert_allclose(shapely.bounds(squares.to_numpy())[:, :2], result.predictions.xy)


@pytest.fixture(scope="module")
def overlapping(result: SlideResult) -> SlideResult:
    """The same tiles, twice as large: each place is covered by up to four."""
    found = replace(result.predictions, extent=2 * result.predictions.pitch, distance=None)
    records = Overlapping(result.records, found.extent)
    return SlideResult(records=records, found=found)


class Overlapping:
    """Records of a slide whose tiles are larger than they are."""

    def __init__(self, records: Any, extent: float) -> None:
        self._records = records
        self.extent = extent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)


def test_where_tiles_overlap_every_export_has_one_value_per_place(
    tmp_path: Path, overlapping: SlideResult
) -> None:
    cells = one_per_place(overlapping.predictions)
    squares = {}
    with exported("csv", tmp_path, overlapping).open(newline="") as file:
        for row in csv.DictReader(file):
            box = [float(row[name]) for name in ("minx", "miny", "width", "height")]
            squares[tuple(box)] = [float(row[f"prob_{name}"]) for name in cells.class_names]
    places = [(float(x), float(y), 8.0, 8.0) for x, y in cells.xy.tolist()]
    assert list(squares) == places
    assert_allclose(list(squares.values()), cells.prob)

    table = build_anndata(overlapping, per_place=True)
    assert_array_equal(table.X, cells.prob)
    assert_allclose(table.obsm["spatial"], cells.xy + 4.0)
    assert build_anndata(overlapping).n_obs == len(overlapping.predictions)


def test_attention_has_one_value_per_place_and_still_sums_to_one(
    tmp_path: Path, overlapping: SlideResult
) -> None:
    found = overlapping.predictions
    values = found.prob / found.prob.sum(axis=0)
    attention = TileAttention(
        values=values, names=found.class_names, xy=found.xy, rc=found.rc, shape=found.shape,
        extent=found.extent, pitch=found.pitch,
    )  # fmt: skip
    write_attention_geojson(tmp_path / "a.geojson", attention)
    features = features_in(tmp_path / "a.geojson")
    boxes = [to_shape(feature["geometry"]) for feature in features]
    assert shapely.union_all(boxes).area == pytest.approx(sum(box.area for box in boxes))
    for column, name in enumerate(found.class_names):
        written = [feature["properties"]["measurements"][name] for feature in features]
        assert sum(written) == pytest.approx(1, abs=1e-5)
        means = one_per_place(replace(found, prob=values)).prob[:, column]
        assert_allclose(np.array(written), means / means.sum(), atol=1e-7)


def test_a_missing_library_is_named(tmp_path: Path, result: SlideResult) -> None:
    if importlib.util.find_spec("spatialdata") is None:
        with pytest.raises(ExportError, match=r"pip install 'wsi-pipeline\[spatialdata\]'"):
            exported("spatialdata", tmp_path, result)
    with pytest.raises(ExportError, match=r"needs no_such_module; install it: pip .*\[extra\]"):
        import_optional("no_such_module", "extra")


RULES = [ClassRule(), ClassRule(threshold=0.7), ClassRule(classes=("stroma",), threshold=0.3)]


@pytest.mark.parametrize("rule", RULES)
def test_all_exports_say_the_same_of_a_place(
    tmp_path: Path, result: SlideResult, rule: ClassRule
) -> None:
    own = SlideResult(records=result.records, found=result.found, rule=rule)
    features = features_in(exported("regions", tmp_path, own))
    raster = tifffile.imread(exported("ome-tiff-float", tmp_path, own))
    classes = np.asarray(
        zarr.open_group(exported("ome-zarr", tmp_path, own))["image/labels/classes/0"]
    )
    names = own.predictions.class_names
    colors = own.predictions.class_colors
    draw_classes(tmp_path / "heatmap.png", own)
    picture = np.asarray(Image.open(tmp_path / "heatmap.png").convert("RGB")).astype(float)
    scale = PANEL_PX / max(own.records.slide.size_wh)
    seen = set()
    for row, col in np.ndindex(classes.shape):
        x, y = col * 5 + 2.5, row * 5 + 2.5
        inside = [
            f["properties"]["classification"]["name"]
            for f in features
            if shapely.contains_xy(to_shape(f["geometry"]), x, y)
        ]
        label = int(classes[row, col])
        assert inside == ([names[label - 1]] if label else [])
        tone = picture[TITLE_PX + round(y * scale), MARGIN_PX + round(x * scale)] - 230
        assert _class_of_tone(tone, colors) == label
        if label:
            prob = raster[:, int(y // 8), int(x // 8)]
            assert rule.decide(prob[None], names) == label - 1
        seen.add(label)
    assert len(seen) > 1


def _class_of_tone(tone: NDArray[np.float64], colors: Sequence[str]) -> int:
    """Tell, from 1, whose colour lies over glass of the value 230; 0 for none."""
    if not tone.any():
        return 0
    laid = np.array([list(bytes.fromhex(color[1:])) for color in colors]) - 230.0
    alike = laid @ tone / np.linalg.norm(laid, axis=1)
    assert alike.max() > 0.99 * np.linalg.norm(tone), "a tone of no class"
    return int(alike.argmax()) + 1


def test_a_slide_without_tiles_can_be_exported(tmp_path: Path) -> None:
    empty = make_result(tmp_path, n=0)
    for name in (
        "geojson",
        "regions",
        "tissue",
        "areas",
        "csv",
        "ome-tiff",
        "ome-zarr",
        "anndata",
        "dicom",
    ):
        assert exported(name, tmp_path, empty).exists()
    assert features_in(tmp_path / "regions.geojson") == []
    assert not (empty.class_map.labels >= 0).any()
    assert (empty.class_map.labels == NoClass.UNPREDICTED).any()


def test_without_predictions_tissue_alone_is_exported(tmp_path: Path, result: SlideResult) -> None:
    bare = SlideResult(records=result.records)
    assert exported("tissue", tmp_path, bare).exists()
    with pytest.raises(ExportError, match="slide-1 has no predictions"):
        exported("regions", tmp_path, bare)


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path, result: SlideResult) -> None:
    for name in ("regions", "areas", "ome-tiff", "ome-zarr", "anndata"):
        path = exported(name, tmp_path, result)
        before = sorted(file for file in path.rglob("*")) if path.is_dir() else path.read_bytes()
        bad = SlideResult(
            records=result.records, found=result.found, rule=ClassRule(classes=("nobody",))
        )
        if name in ("regions", "areas", "ome-zarr"):
            with pytest.raises(ConfigError, match="no class 'nobody'"):
                exported(name, tmp_path, bad)
        after = sorted(file for file in path.rglob("*")) if path.is_dir() else path.read_bytes()
        assert after == before
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_every_name_leads_to_an_export() -> None:
    assert all(EXPORTS.get(name).file for name in EXPORTS.names)
    with pytest.raises(ConfigError, match="no export 'tif'; choose one of geojson, regions"):
        EXPORTS.get("tif")


DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


def documented() -> str:
    """The module that the page on exports of one's own shows."""
    section = DOCS.read_text(encoding="utf-8").split("## An export of your own")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    return str(code)


def test_the_documented_export_is_short_and_works_once_it_is_installed(
    tmp_path: Path, result: SlideResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(documented().splitlines()) < 40
    about = tmp_path / "letters-0.1.dist-info"
    about.mkdir()
    (tmp_path / "letters_export.py").write_text(documented(), encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 0.1\n")
    line = "letters = letters_export:LETTERS"
    (about / "entry_points.txt").write_text(f"[{EXPORTS.group}]\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    exports: Registry[Export] = Registry("export", EXPORTS.group, {})

    path = tmp_path / exports.get("letters").file.format(slide_id="slide-1")
    exports.get("letters").write(path, result)

    lines = path.read_text().splitlines()
    assert (len(lines), len(lines[0])) == (8, 10)
    found = result.predictions
    for (row, col), label in zip(found.rc.tolist(), found.label.tolist(), strict=True):
        assert lines[row][col] == found.class_names[label][0]
    assert sum(line.count(".") for line in lines) == 80 - len(found)
