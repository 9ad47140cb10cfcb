"""The server of the page: what it shows is true, and it shows nothing to those it should not."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.runs import DeadlyPath
from tests.viewed import make_results, view_of
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ReportError
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.results.export.attention import TileAttention, write_attention_table
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.run.apart import SlidesApart
from wsi_pipeline.run.outcome import RunReport, Status
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import Slide, open_slide
from wsi_pipeline.stain import unmix
from wsi_pipeline.store import PatchStore
from wsi_pipeline.view import app as app_module
from wsi_pipeline.view.app import View, make_app
from wsi_pipeline.view.folder import NotInResults, ResultsFolder
from wsi_pipeline.view.guard import COOKIE, HEADERS, Guard
from wsi_pipeline.view.masks import Masks
from wsi_pipeline.view.pixels import (
    READ_PX,
    TILE_PX,
    OpenSlides,
    TileServer,
    last_level,
    read_tile,
    show_stain,
)
from wsi_pipeline.view.serve import ViewOptions, serve
from wsi_pipeline.view.slides import Slides

if TYPE_CHECKING:
    from tests.known import KnownSlide

HOME = "http://127.0.0.1:8765"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def results(known_slide: KnownSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(known_slide, tmp_path_factory.mktemp("view") / "out", "a", "b")


def client_of(view: View, token: str | None = None) -> TestClient:
    app = Guard(make_app(view), token=token)
    return TestClient(app, base_url=HOME, raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def client(results: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A client of results of its own, since labels change them."""
    out = tmp_path / "out"
    shutil.copytree(results, out)
    with client_of(view_of(out)) as client:
        yield client


def picture(content: bytes) -> NDArray[np.uint8]:
    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


# --- what is shown ----------------------------------------------------------------------------


def test_the_tiles_of_every_level_make_up_the_slide(known_slide: KnownSlide) -> None:
    with open_slide(known_slide.path) as slide:
        top = last_level(slide.info)
        for level in (top, top - 1, top - 3, top - 5):
            step = 2 ** (top - level)
            side = math.ceil(2048 / step)
            count = math.ceil(side / TILE_PX)
            rows = [
                np.concatenate([read_tile(slide, level, x, y) for x in range(count)], axis=1)
                for y in range(count)
            ]
            whole = slide.read_region((0, 0), (side, side), 0.5 * step).astype(int)
            assert np.abs(np.concatenate(rows) - whole).max() <= 1, level


def test_tiles_beyond_the_slide_do_not_exist(known_slide: KnownSlide) -> None:
    with open_slide(known_slide.path) as slide:
        for level, x, y in [(11, 4, 0), (11, 0, -1), (12, 0, 0), (-1, 0, 0), (3, 1, 0)]:
            with pytest.raises(NotInResults):
                read_tile(slide, level, x, y)


class Watched(Slide):
    """A slide that notes the largest square that is read at once."""

    largest = 0

    def read_region(
        self, xy: tuple[float, float], size_wh: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        self.largest = max(self.largest, round(max(size_wh) * mpp / self.info.mpp))
        return super().read_region(xy, size_wh, mpp)


def test_a_slide_without_a_pyramid_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    import tifffile

    side = 4096
    rgb = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    path = tmp_path / "flat.tif"
    tifffile.imwrite(
        path, rgb, tile=(256, 256), photometric="rgb", resolution=(20_000, 20_000), resolutionunit=3
    )
    with open_slide(path) as slide:
        watched = Watched(path, slide._reader, slide.info)
        tile = read_tile(watched, last_level(slide.info) - 3, 0, 0)
    assert watched.largest <= READ_PX
    means = rgb.reshape(512, 8, 512, 8, 3).mean(axis=(1, 3))
    assert np.abs(tile - means).max() <= 1


def test_stains_are_shown_as_the_slide_with_one_of_them(
    known_slide: KnownSlide, results: Path
) -> None:
    stains = PatchStore.open(results / "a" / "patches.zarr").stain.matrix
    with open_slide(known_slide.path) as slide:
        rgb = slide.read_region((600, 600), (200, 200), 0.5)
    concentrations = unmix(rgb, stains)
    for stain in (0, 1):
        shown = show_stain(rgb, stains, stain).astype(float)
        amount = concentrations[stain].clip(0, 2 * stains.max_concentration[stain])
        expected = 255 * 10 ** -(amount[..., None] * stains.vectors[stain])
        assert np.abs(shown - expected).mean() < 1.5


def test_what_the_page_shows_of_a_slide_is_what_the_files_say(
    client: TestClient, results: Path
) -> None:
    store = PatchStore.open(results / "a" / "patches.zarr")
    predictions = read_predictions(results / "a" / "bluer" / "predictions.parquet")

    about = client.get("/api/slides/a").json()
    assert about["size_wh"] == [2048, 2048]
    assert about["maps"] == [{"name": "bluer", "kind": "classes"}]
    assert (about["grid"]["rows"], about["grid"]["cols"]) == store.grid_shape
    reasons = np.frombuffer(client.get("/api/slides/a/grid").content, np.uint8)
    assert (reasons.reshape(store.grid_shape) == store.reasons).all()
    mask = cv2.imdecode(
        np.frombuffer(client.get("/api/slides/a/mask").content, np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert (np.asarray(mask) == store.areas).all()
    shown = client.get("/api/slides/a/maps/bluer").json()
    values = np.frombuffer(client.get("/api/slides/a/maps/bluer/values").content, np.uint8)
    values = values.reshape(shown["rows"], shown["cols"], 2)
    at_tiles = values[predictions.rc[:, 0], predictions.rc[:, 1]] / 254
    assert np.abs(at_tiles - predictions.prob).max() <= 0.5 / 254 + 1e-6
    assert (values == 255).all(axis=2).sum() == values[..., 0].size - len(predictions)
    areas = np.bincount(predictions.label, minlength=2) * (256 * 0.5 / 1000) ** 2
    assert shown["mm2"] == pytest.approx(areas.tolist())


def test_a_tile_is_shown_with_the_pixels_of_its_patch(
    client: TestClient, known_slide: KnownSlide, results: Path
) -> None:
    store = PatchStore.open(results / "a" / "patches.zarr")
    shown = picture(client.get("/api/slides/a/patch/5").content)
    with open_slide(known_slide.path) as slide:
        x, y = store.xy[5].tolist()
        patch = slide.read_region((x, y), (256, 256), 0.5)
    assert np.abs(shown.astype(int) - patch).mean() < 6  # JPEG
    assert client.get(f"/api/slides/a/patch/{len(store)}").status_code == 404


def test_the_page_begins_with_the_slide_wanted_or_the_first_that_can_be_shown(
    results: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(results, tmp_path / "out"))
    with client_of(view_of(out)) as client:
        for wanted, seen in [("", "a"), ("?slide=b", "b"), ("?slide=..", "a"), ("?slide=x", "a")]:
            about = client.get(f"/api/first{wanted}").json()
            assert about == client.get(f"/api/slides/{seen}").json()
        report = RunReport.read(out / "run.json")
        failed = [replace(o, status=Status.FAILED, error="no slide") for o in report.outcomes]
        replace(report, outcomes=(failed[0], *report.outcomes[1:])).write(out / "run.json")
        assert client.get("/api/first").json()["id"] == "b"
        replace(report, outcomes=tuple(failed)).write(out / "run.json")
        assert client.get("/api/first").json() is None


def test_all_modules_of_the_page_are_fetched_at_once(client: TestClient) -> None:
    page = client.get("/").text
    folder = app_module.static_folder()
    for module in folder.glob("*.js"):
        assert page.count(f'"/static/{module.name}"') == 1, module.name
    named = re.findall(r'(?:src|href)="/static/([^"]+)"', page)
    assert all((folder / name).is_file() for name in named)


def test_maps_of_attention_are_shown_by_percentile(client: TestClient, results: Path) -> None:
    store = PatchStore.open(results / "a" / "patches.zarr")
    values = np.random.default_rng(0).dirichlet(np.ones(len(store)), 1).T.astype(np.float32)
    attention = TileAttention(
        values=values,
        names=("attention",),
        xy=store.xy,
        rc=store.rc,
        shape=store.grid_shape,
        extent=store.extent,
        pitch=store.pitch,
    )
    out = Path(client.get("/api/results").json()["out"])
    write_attention_table(out / "a" / "abmil" / "attention.parquet", attention)

    shown = client.get("/api/slides/a/maps/abmil (attention)").json()
    raster = np.frombuffer(
        client.get("/api/slides/a/maps/abmil (attention)/values").content, np.uint8
    ).reshape(shown["rows"], shown["cols"])

    assert shown["kind"] == "attention"
    percentile = raster[store.rc[:, 0], store.rc[:, 1]] / 254
    assert np.abs(percentile - attention.percentile[:, 0]).max() < 0.003


def test_labels_learning_and_the_new_map(client: TestClient, results: Path) -> None:
    store = PatchStore.open(results / "a" / "patches.zarr")
    classes = [{"name": "one", "color": "#d55e00"}, {"name": "two", "color": "#0072b2"}]
    assert client.post("/api/classes", json=classes).json() == classes
    assert client.get("/api/classes").json() == classes
    predictions = read_predictions(results / "a" / "bluer" / "predictions.parquet")
    order = np.argsort(predictions.prob[:, 0], kind="stable")
    for number, tile in enumerate([*order[:4], *order[-4:]]):
        x, y = store.xy[tile].tolist()
        ring = [[x, y], [x + 256, y], [x + 256, y + 256], [x, y + 256], [x, y]]
        entry = classes[number // 4]
        change = {
            "id": f"00000000-0000-0000-0000-{number:012d}",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            **entry,
        }
        assert client.post("/api/slides/a/labels", json={"put": change}).status_code == 200

    for _ in range(200):
        answer = client.post("/api/slides/a/learn", json={}).json()
        if answer["ready"]:
            break
    assert answer["counts"] == [4, 4]
    assert answer["judgement"]["by"] == "region"
    labelled = {*order[:4].tolist(), *order[-4:].tolist()}
    assert labelled.isdisjoint(tile["tile"] for tile in answer["suggested"])
    shown = client.get("/api/slides/a/maps/learned").json()
    assert shown["names"] == ["one", "two"]
    learned = read_predictions(
        Path(client.get("/api/results").json()["out"]) / "a" / "learned" / "predictions.parquet"
    )
    assert (learned.label[order[:4]] == 0).all()
    assert (learned.label[order[-4:]] == 1).all()


def test_learning_without_labels_says_what_to_do(client: TestClient) -> None:
    for _ in range(200):
        answer = client.post("/api/slides/a/learn", json={}).json()
        if answer["ready"]:
            break
    assert "label tiles of two classes" in answer["problem"]
    assert client.get("/api/slides/a/maps/learned").status_code == 404


def test_settings_are_tried_at_once_and_kept_as_toml_for_the_next_run(
    client: TestClient, known_slide: KnownSlide, results: Path, tmp_path: Path
) -> None:
    settings = {entry["key"]: entry for entry in client.get("/api/tune").json()["settings"]}
    assert settings["min_tissue"]["value"] == 0.5
    assert client.get("/api/tune").json()["options"] == []
    same = client.post("/api/slides/a/tune", json={}).json()
    store = PatchStore.open(results / "a" / "patches.zarr")
    assert same["funnel"] == store.funnel()
    assert (
        np.frombuffer(base64.b64decode(same["reasons"]), np.uint8) == store.reasons.ravel()
    ).all()

    wanted = {"tile": {"min_tissue": 0.95}, "results": {"threshold": 0.8}}
    tried = client.post("/api/slides/a/tune", json=wanted).json()
    assert tried["funnel"]["kept"] < same["funnel"]["kept"]
    option, kept = client.post("/api/tune", json=wanted).json()["options"]
    assert option == "--config"
    values = {e["key"]: e["value"] for e in client.get("/api/tune").json()["settings"]}
    assert (values["min_tissue"], values["threshold"]) == (0.95, 0.8)
    assert not (results / ".view" / "tuned.toml").exists()

    job = SlideJob(path=known_slide.path, slide_id="a")
    config = load_config(Path(kept))
    assert config.results.threshold == 0.8
    made = preprocess_slide(job, tmp_path / "next.zarr", config)
    assert made.store.funnel() == tried["funnel"]

    assert client.post("/api/tune", content="null", headers=JSON).json()["options"] == []
    values = {e["key"]: e["value"] for e in client.get("/api/tune").json()["settings"]}
    assert (values["min_tissue"], values["threshold"]) == (0.5, None)


def test_tissue_is_drawn_like_any_area_and_given_to_the_next_run(
    client: TestClient, known_slide: KnownSlide, results: Path, tmp_path: Path
) -> None:
    store = PatchStore.open(results / "a" / "patches.zarr")
    found = client.get("/api/slides/a/tissue").json()
    assert {part["properties"]["classification"]["name"] for part in found} == {"Tissue"}
    whole = client.post("/api/slides/a/tune", json={}).json()
    assert whole["pieces"] == len(found)

    rubber = {"points": [[0, 1024], [2048, 1024]], "radius": 300}
    erased = client.post("/api/slides/a/tissue", json={"erase": rubber}).json()
    tried = client.post("/api/slides/a/tune", json={}).json()
    assert tried["tissue_mm2"] < whole["tissue_mm2"]
    assert 0 < tried["funnel"]["kept"] < store.funnel()["kept"]
    option, masks = client.get("/api/tune").json()["options"]
    assert option == "--tissue-mask"

    (job,) = find_slides([str(known_slide.path)], tissue_mask=_only_mask(Path(masks), tmp_path))
    made = preprocess_slide(
        job, tmp_path / "next.zarr", load_config(base={"tile": {"mpp": 0.5, "patch_size": 256}})
    )
    assert made.store.funnel() == tried["funnel"]

    client.post("/api/slides/a/tissue", json={"restore": erased["undo"]})
    assert client.get("/api/slides/a/tissue").json() == found
    assert client.post("/api/slides/a/tissue", content="null", headers=JSON).json() == found
    assert client.get("/api/tune").json()["options"] == []


def _only_mask(folder: Path, tmp_path: Path) -> Path:
    """The one mask of a folder, in one where it has the name of the slide's file."""
    (mask,) = folder.iterdir()
    (tmp_path / "masks").mkdir()
    return Path(shutil.copy(mask, tmp_path / "masks" / "known.geojson")).parent


@pytest.mark.parametrize(
    "values", [[], {"tile": {"min_tissue": 2}}, {"read": {"reader": "tiff"}}, {"tile": 3}]
)
def test_settings_out_of_range_are_refused(client: TestClient, values: Any) -> None:
    for path in ("/api/tune", "/api/slides/a/tune"):
        assert client.post(path, json=values).status_code == 422


def test_results_that_a_run_adds_to_are_read_again(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "out")
    folder = ResultsFolder(tmp_path / "out")
    assert list(folder.records()) == ["a", "b"]
    assert folder.records() is folder.records()  # nothing is parsed while nothing changes
    report = RunReport.read(tmp_path / "out" / "run.json")
    replace(report, outcomes=report.outcomes[:1]).write(tmp_path / "out" / "run.json")

    assert list(folder.records()) == ["a"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="wsi-pipeline run"):
        ResultsFolder(tmp_path)


def test_a_slide_that_was_moved_is_found_where_it_is_now(
    known_slide: KnownSlide, results: Path, tmp_path: Path
) -> None:
    shutil.copytree(results, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    for outcome in report["outcomes"]:
        outcome["path"] = f"/gone/{known_slide.path.name}"
    (tmp_path / "out" / "run.json").write_text(json.dumps(report))

    with client_of(view_of(tmp_path / "out")) as client:
        refused = client.get("/api/slides/a")
    with client_of(view_of(tmp_path / "out", slides=known_slide.path.parent)) as client:
        found = client.get("/api/slides/a")

    assert refused.status_code == 422
    assert "/gone/" in refused.json()["error"]
    assert found.json()["size_wh"] == [2048, 2048]


def test_few_slides_are_open_and_none_is_closed_while_it_is_read(known_slide: KnownSlide) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Noted(Slide):
        def close(self) -> None:
            closed.append(self.info.slide_id)
            super().close()

    def open_one(name: str) -> Slide:
        opened.append(name)
        slide = open_slide(known_slide.path, slide_id=name)
        return Noted(slide.path, slide._reader, slide.info)

    slides = OpenSlides(open_one, most=2)
    with slides.lend("first") as first:
        for name in "abcd":
            with slides.lend(name):
                pass
        assert "first" not in closed
        first.read_region((0, 0), (8, 8), 0.5)
    assert opened == ["first", *"abcd"]
    assert len(opened) - len(closed) <= 2
    slides.close()
    assert sorted(closed) == sorted(opened)


def test_kept_tiles_take_bounded_memory(
    known_slide: KnownSlide, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stains = PatchStore.open(results / "a" / "patches.zarr").stain.matrix
    monkeypatch.setattr("wsi_pipeline.view.pixels.CACHE_BYTES", 100_000)
    server = TileServer(OpenSlides(lambda _: open_slide(known_slide.path)), lambda _: stains)
    for x in range(4):
        for y in range(4):
            server.tile("a", "rgb", 11, x, y)
    assert 0 < sum(map(len, server._kept.values())) <= 100_000
    server._slides.close()


def test_the_page_outlives_a_slide_whose_decoder_dies(results: Path) -> None:
    with SlidesApart(processes=1) as apart:

        def open_one(path: Path, *given: Any, slide_id: str) -> Slide:
            named = DeadlyPath(path) if slide_id == "a" else path
            return apart.open(named, *given, slide_id=slide_id)

        with client_of(replace(view_of(results), open_one=open_one)) as client:
            deadly, sound = (client.get(f"/api/slides/{name}/tiles/rgb/0/0/0") for name in "ab")

    assert deadly.status_code == 422
    assert "SIGSEGV" in deadly.json()["error"]
    assert sound.status_code == 200


# --- who may see it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", ""]
)
def test_other_names_for_this_machine_are_turned_away(client: TestClient, host: str) -> None:
    """A site may point its name at 127.0.0.1, so that its pages are of one origin with ours."""
    refused = client.get("/api/results", headers={"host": host})

    assert refused.status_code == 403
    assert "slides" not in refused.text


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "[::1]:99"])
def test_names_of_the_loopback_are_known(client: TestClient, host: str) -> None:
    assert client.get("/api/results", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example", **JSON},
        {"origin": "http://127.0.0.1:9999", **JSON},
        {"origin": "null", **JSON},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": ""},
    ],
)
def test_other_sites_cannot_change_labels(client: TestClient, headers: dict[str, str]) -> None:
    body = json.dumps([{"name": "hacked", "color": "#000000"}])

    refused = client.post("/api/classes", content=body, headers=headers)

    assert refused.status_code == 403
    assert "hacked" not in client.get("/api/classes").text


def test_the_page_itself_can_change_labels(client: TestClient) -> None:
    classes = [{"name": "mine", "color": "#000000"}]
    kept = client.post("/api/classes", json=classes, headers={"origin": HOME})
    assert kept.json() == classes


def test_others_need_the_token(results: Path) -> None:
    with client_of(view_of(results), token="secret") as client:
        for path in ("/", "/api/results", "/static/main.js", "/?token=wrong", "/?token="):
            refused = client.get(path)
            assert refused.status_code == 401, path
            assert "slides" not in refused.text
        assert client.get("/", headers={"cookie": f"{COOKIE}=wrong"}).status_code == 401

        handed = client.get("/?token=secret")
        assert handed.status_code == 303
        assert handed.headers["location"] == "/"  # the secret leaves the address
        cookie = handed.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/api/results").status_code == 200


@pytest.mark.parametrize(("host", "asks"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_server_that_others_can_reach_asks_for_its_token(
    monkeypatch: pytest.MonkeyPatch, host: str, asks: bool
) -> None:
    guarded: list[Guard] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, **_: guarded.append(self.config.app))
    told: list[str] = []

    serve(Starlette(), ViewOptions(host=host, port=0), told.append)

    (address,) = told
    path, _, token = address.partition("?token=")
    assert bool(token) is asks
    assert not asks or len(token) >= 32  # 24 random bytes
    with TestClient(guarded[0], base_url=path, follow_redirects=False) as other:
        assert other.get("/api/results").status_code == (401 if asks else 404)
        if asks:
            assert other.get(f"/?token={token}").status_code == 303
            assert other.get("/api/results").status_code == 404


OUTSIDE = [
    "/api/slides/..%2F..%2Fetc/mask",
    "/api/slides/../../run.json",
    "/api/slides/%2e%2e/maps/x",
    "/api/slides/a/maps/..%2F..%2Fb",
    "/api/slides/a/maps/...%2e%2fbluer",
    "/static/../app.py",
    "/static/..%2Fapp.py",
    "/static/%2e%2e/app.py",
    "/static/vendor/../../app.py",
    "/../../../../etc/passwd",
    "/api/slides/.view",
    "/api/slides/a/tiles/../../x/1/1",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_do_not_lead_out_of_the_results(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code in (404, 405)
    assert "import" not in answer.text
    assert "root:" not in answer.text


def test_links_do_not_lead_out_of_the_results(
    client: TestClient, results: Path, tmp_path: Path
) -> None:
    out = Path(client.get("/api/results").json()["out"])
    (out / "a" / "linked").mkdir()
    target = tmp_path / "elsewhere.parquet"
    shutil.copy(results / "a" / "bluer" / "predictions.parquet", target)
    (out / "a" / "linked" / "predictions.parquet").symlink_to(target)
    shutil.move(out / "b", tmp_path / "b")
    (out / "b").symlink_to(tmp_path / "b")

    assert "linked" not in str(client.get("/api/slides/a").json()["maps"])
    assert client.get("/api/slides/a/maps/linked").status_code == 404
    assert client.get("/api/slides/b/mask").status_code == 404

    (tmp_path / "notes.json").write_text('{"type": "FeatureCollection", "features": []}')
    (out / "a" / "labels.geojson").symlink_to(tmp_path / "notes.json")
    assert client.get("/api/slides/a/labels").status_code == 404
    shutil.move(out / "a" / "patches.zarr", tmp_path / "patches.zarr")
    (out / "a" / "patches.zarr").symlink_to(tmp_path / "patches.zarr")
    assert client.get("/api/slides/a/mask").status_code == 404


def test_ids_in_a_record_do_not_lead_out_of_the_results(results: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(results, tmp_path / "out"))
    shutil.copytree(results / "a", tmp_path / "outside")
    report = RunReport.read(out / "run.json")
    led = [replace(report.outcomes[0], slide_id=name) for name in ("../outside", "..", "a/../a")]
    replace(report, outcomes=(*report.outcomes, *led)).write(out / "run.json")
    (tmp_path / "labels").mkdir()
    folder = ResultsFolder(out, labels=tmp_path / "labels")

    for outcome in led:
        for look in (folder.folder, folder.labels_path, folder.store, folder.maps):
            with pytest.raises(NotInResults):
                look(outcome.slide_id)
        with pytest.raises(NotInResults):
            Masks(Slides(folder)).path(outcome.slide_id)
    assert Slides(folder).slide_ids() == ["a", "b"]


def test_every_answer_carries_the_headers(client: TestClient) -> None:
    answers = [
        client.get("/"),
        client.get("/static/main.js"),
        client.get("/api/results"),
        client.get("/api/slides/none"),
        client.get("/nothing"),
        client.get("/", headers={"host": "evil.example"}),
        client.post("/api/slides/a/labels", json={"put": {}}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 404, 403, 400]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert answer.headers["cache-control"] in ("no-store", "private, max-age=86400")
    assert set(HEADERS) >= {
        "Content-Security-Policy",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "Referrer-Policy",
        "Cross-Origin-Opener-Policy",
        "Cross-Origin-Resource-Policy",
    }
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    for part in ("default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"):
        assert part in policy


def test_the_page_holds_no_script_or_style_of_its_own_and_no_address_of_another_machine() -> None:
    static = Path(app_module.__file__).parent / "static"
    page = (static / "index.html").read_text()
    assert "<style" not in page
    assert page.count("<script") == page.count("<script src=") + page.count("<script type=")
    for file in (*static.glob("*.js"), *static.glob("*.css"), static / "index.html"):
        text = file.read_text()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), file
        assert "https://" not in text, file
        for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert unsafe not in text, file


def test_large_and_broken_changes_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MAX_BODY", 1000)

    large = client.post("/api/slides/a/labels", content="[" * 2000, headers=JSON)
    broken = client.post("/api/slides/a/labels", content="{", headers=JSON)
    deep = client.post("/api/slides/a/labels", content="[" * 999, headers=JSON)

    assert (large.status_code, broken.status_code, deep.status_code) == (413, 400, 400)


def test_without_the_library_of_the_page_it_says_what_is_missing(
    results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("wsi_pipeline.view.app.resources.files", lambda _: tmp_path)

    with pytest.raises(ConfigError, match="OpenSeadragon"):
        make_app(view_of(results))
