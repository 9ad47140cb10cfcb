"""Requests of the page -> answers: a table of routes, each one call.

What may be asked at all is decided by :mod:`wsi_pipeline.view.guard`, before this.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wsi_pipeline.errors import ConfigError, WsiPipelineError
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.view.classes import (
    default_classes,
    parse_classes,
    read_classes,
    write_classes,
)
from wsi_pipeline.view.folder import MapFile, NotInResults, ResultsFolder
from wsi_pipeline.view.jobs import RECIPES, Jobs
from wsi_pipeline.view.learning import Learner
from wsi_pipeline.view.maps import read_raster
from wsi_pipeline.view.masks import Masks
from wsi_pipeline.view.pixels import VIEWS, encode_png
from wsi_pipeline.view.shapes import BadShape
from wsi_pipeline.view.slides import OpenSlide, Slides
from wsi_pipeline.view.tune import Tuner

if TYPE_CHECKING:
    from wsi_pipeline.learn import ClassName
    from wsi_pipeline.learn.folder import FolderLearning

MAX_BODY = 8 << 20
"""Largest change that is accepted, bytes."""

GZIP_LEVEL = 1
"""Quick: most readers are on this machine."""

SLIDE = "/api/slides/{slide}"

LASTING = {"Cache-Control": "private, max-age=86400"}
"""For pictures whose address names the version of the slide."""

Handler = Callable[[Request], Response]


def static_folder() -> Path:
    """Return the folder of the page's own files.

    Raises
    ------
    ConfigError
        If the viewer's library is not installed with it.
    """
    folder = Path(str(resources.files("wsi_pipeline.view"))) / "static"
    if not (folder / "vendor" / "openseadragon.min.js").is_file():
        raise ConfigError(
            "the page needs OpenSeadragon, which this installation was built without, for want of "
            "npm or of a network; install the wheel, or in a checkout run: python viewer/fetch.py"
        )
    return folder


@dataclass
class View:
    """What the page is about.

    Attributes
    ----------
    folder : ResultsFolder
        The results.
    learning : callable
        Makes, of the slides, what says how features are computed.
    open_one : callable
        Opens slides, as :class:`~wsi_pipeline.view.slides.Slides` takes it.
    """

    folder: ResultsFolder
    learning: Callable[[Slides], FolderLearning]
    open_one: OpenSlide = open_slide
    slides: Slides = field(init=False)
    learner: Learner = field(init=False)
    jobs: Jobs = field(init=False)
    masks: Masks = field(init=False)
    tuner: Tuner = field(init=False)
    _lock: Lock = field(init=False, default_factory=Lock)

    def __post_init__(self) -> None:
        self.slides = Slides(self.folder, self.open_one)
        self.learner = Learner(self.slides, lambda: self.learning(self.slides))
        self.jobs = Jobs(self.slides)
        self.masks = Masks(self.slides)
        self.tuner = Tuner(self.slides, self.masks)

    def classes(self) -> list[ClassName]:
        """Return the classes to label with: those kept, else those the run knows."""
        kept = read_classes(self.folder.work)
        if kept:
            return kept
        config = self.folder.config().label.classes
        return default_classes(config or self.folder.report.model.get("class_names", ()))

    def close(self) -> None:
        """End what is under way."""
        self.jobs.close()
        self.learner.close()
        self.slides.close()


def make_app(view: View) -> Starlette:
    """Make the application of the page.

    Parameters
    ----------
    view : View
        What it shows.

    Returns
    -------
    Starlette
        To be guarded and served.

    Raises
    ------
    ConfigError
        If the viewer's library is missing.
    """
    static = static_folder()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        view.close()

    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(static / "index.html")),
            Mount("/static", StaticFiles(directory=static)),
            *_page_routes(view),
            *_slide_routes(view),
            *_label_routes(view),
            *_job_routes(view),
            *_tune_routes(view),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=2048, compresslevel=GZIP_LEVEL)],
        exception_handlers={
            NotInResults: _explain(404),
            BadShape: _explain(400),
            WsiPipelineError: _explain(422),
        },
        lifespan=lifespan,
    )


def _explain(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, error: JSONResponse({"error": str(error)}, status_code=status)


def _page_routes(view: View) -> list[Route]:
    def results(_: Request) -> Response:
        report = view.folder.report
        return JSONResponse(
            {
                "out": str(view.folder.out),
                "model": report.model.get("name"),
                "started": report.started,
                "slides": [
                    view.slides.summary(outcome) for outcome in view.folder.records().values()
                ],
            }
        )

    def first(request: Request) -> Response:
        slide_id = view.slides.first(request.query_params.get("slide", ""))
        return JSONResponse(None if slide_id is None else view.slides.describe(slide_id))

    def classes(_: Request) -> Response:
        return JSONResponse([_plain(entry) for entry in view.classes()])

    def keep_classes(_: Request, values: Any) -> Response:  # noqa: ANN401 -- JSON
        write_classes(view.folder.work, parse_classes(values))
        return JSONResponse([_plain(entry) for entry in view.classes()])

    return [
        Route("/api/results", results),
        Route("/api/first", first),
        Route("/api/classes", classes, methods=["GET"]),
        Route("/api/classes", _with_json(keep_classes), methods=["POST"]),
    ]


def _plain(entry: ClassName) -> dict[str, str]:
    return {"name": entry.name, "color": entry.color}


def _slide_routes(view: View) -> list[Route]:
    slides = view.slides

    def thumbnail(request: Request) -> Response:
        return _picture(slides.thumbnail(_slide(request)))

    def tile(request: Request) -> Response:
        path = request.path_params
        if path["view"] not in VIEWS:
            raise NotInResults(f"no view {path['view']!r}; there are {', '.join(VIEWS)}")
        place = (path["level"], path["column"], path["row"])
        return _picture(slides.tiles.tile(_slide(request), path["view"], *place))

    def patch(request: Request) -> Response:
        store, index = slides.store(_slide(request)), request.path_params["index"]
        if index >= len(store):
            raise NotInResults(f"no tile {index} of {len(store)}")
        return _picture(slides.tile_picture(_slide(request), index))

    def grid(request: Request) -> Response:
        return _bytes(slides.store(_slide(request)).reasons.tobytes())

    def mask(request: Request) -> Response:
        return _picture(encode_png(slides.store(_slide(request)).areas), "image/png")

    return [
        Route(SLIDE, lambda request: JSONResponse(slides.describe(_slide(request)))),
        Route(SLIDE + "/thumbnail", thumbnail),
        Route(SLIDE + "/tiles/{view}/{level:int}/{column:int}/{row:int}", tile),
        Route(SLIDE + "/patch/{index:int}", patch),
        Route(SLIDE + "/grid", grid),
        Route(SLIDE + "/mask", mask),
    ]


def _label_routes(view: View) -> list[Route]:
    slides = view.slides

    def describe_map(request: Request) -> Response:
        raster = read_raster(_map(view, request))
        return JSONResponse(raster.describe(view.folder.record(_slide(request)).slide["mpp"]))

    def map_values(request: Request) -> Response:
        return _bytes(read_raster(_map(view, request)).values.tobytes())

    def labels(request: Request) -> Response:
        return JSONResponse(slides.labels(_slide(request)).features())

    def change_labels(request: Request, change: Any) -> Response:  # noqa: ANN401 -- JSON
        return JSONResponse(slides.labels(_slide(request)).apply(change))

    def learn(request: Request, _: Any) -> Response:  # noqa: ANN401 -- JSON
        return JSONResponse(view.learner.learn(_slide(request), view.classes()))

    return [
        Route(SLIDE + "/maps/{name}", describe_map),
        Route(SLIDE + "/maps/{name}/values", map_values),
        Route(SLIDE + "/labels", labels, methods=["GET"]),
        Route(SLIDE + "/labels", _with_json(change_labels), methods=["POST"]),
        Route(SLIDE + "/learn", _with_json(learn), methods=["POST"]),
    ]


def _map(view: View, request: Request) -> MapFile:
    return view.folder.map(_slide(request), request.path_params["name"])


def _job_routes(view: View) -> list[Route]:
    def jobs(_: Request) -> Response:
        recipes = [{"name": name, "title": entry["title"]} for name, entry in RECIPES.items()]
        found = [view.jobs.describe(job) for job in view.jobs.all()]
        return JSONResponse({"recipes": recipes, "jobs": found})

    def start(_: Request, wanted: Any) -> Response:  # noqa: ANN401 -- JSON
        if not isinstance(wanted, dict):
            raise BadShape("a training is asked for by an object")
        recipe, epochs, slide_id = (wanted.get(key) for key in ("recipe", "epochs", "slide"))
        if epochs is not None and not isinstance(epochs, int):
            raise BadShape(f"epochs must be a whole number, got {epochs!r}")
        job = view.jobs.start(str(recipe), epochs, str(slide_id))
        return JSONResponse(view.jobs.describe(job))

    def stop(request: Request, _: Any) -> Response:  # noqa: ANN401 -- JSON
        job = view.jobs.find(request.path_params["number"])
        view.jobs.stop(job.number)
        return JSONResponse({"number": job.number})

    return [
        Route("/api/jobs", jobs, methods=["GET"]),
        Route("/api/jobs", _with_json(start), methods=["POST"]),
        Route("/api/jobs/{number:int}/stop", _with_json(stop), methods=["POST"]),
    ]


def _tune_routes(view: View) -> list[Route]:
    tuner, masks = view.tuner, view.masks

    def settings(_: Request) -> Response:
        return JSONResponse({"settings": tuner.settings(), "options": tuner.options()})

    def keep(request: Request, values: Any) -> Response:  # noqa: ANN401 -- JSON
        if values is None:
            tuner.forget()
        else:
            tuner.keep(values)
        return settings(request)

    def preview(request: Request, values: Any) -> Response:  # noqa: ANN401 -- JSON
        return JSONResponse(tuner.preview(_slide(request), values))

    def tissue(request: Request) -> Response:
        return JSONResponse(masks.file(_slide(request)).features())

    def change_tissue(request: Request, change: Any) -> Response:  # noqa: ANN401 -- JSON
        if change is None:
            masks.forget(_slide(request))
            return tissue(request)
        return JSONResponse(masks.file(_slide(request)).apply(change))

    return [
        Route("/api/tune", settings, methods=["GET"]),
        Route("/api/tune", _with_json(keep), methods=["POST"]),
        Route(SLIDE + "/tune", _with_json(preview), methods=["POST"]),
        Route(SLIDE + "/tissue", tissue, methods=["GET"]),
        Route(SLIDE + "/tissue", _with_json(change_tissue), methods=["POST"]),
    ]


def _slide(request: Request) -> str:
    return str(request.path_params["slide"])


def _picture(content: bytes, kind: str = "image/jpeg") -> Response:
    return Response(content, media_type=kind, headers=LASTING)


def _bytes(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")


def _with_json(handle: Callable[[Request, Any], Response]) -> Any:  # noqa: ANN401 -- an endpoint
    """Read a bounded body of JSON, and handle it in a thread."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"more than {MAX_BODY} bytes"}, status_code=413)
        try:
            values = json.loads(bytes(body) or b"null")
        except (ValueError, RecursionError) as error:
            raise BadShape(f"this is no JSON: {error}") from error
        return await run_in_threadpool(handle, request, values)

    return endpoint
