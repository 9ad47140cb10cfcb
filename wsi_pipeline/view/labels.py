"""Changes that a person makes to labels <-> a GeoJSON file that QuPath reads and writes.

Every change is on disk before it is confirmed, and names the change that undoes it. What QuPath
wrote and this page does not know, such as points and measurements, stays as it is.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import shapely.affinity
from shapely.geometry import mapping, shape

from wsi_pipeline.annotations import Annotation, read_annotations
from wsi_pipeline.errors import AnnotationError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.view.shapes import BadShape, brush_area, erase, parse_area, to_geojson

if TYPE_CHECKING:
    from wsi_pipeline.types import SlideInfo

MAX_FEATURES = 200_000
"""Most objects of one slide: QuPath itself is slow above."""

MAX_NAME = 200
"""Longest name of a class."""

Feature = dict[str, Any]
Changes = dict[str, Feature | None]
"""Objects by id as they are after a change; None is gone."""

_ID = re.compile(r"^[0-9a-f-]{36}$")
_COLOR = re.compile(r"^#[0-9a-f]{6}$")


class LabelFile:
    """The labels of one slide.

    Parameters
    ----------
    path : Path
        ``.geojson``; it need not exist.
    given : Path or None
        Annotations of any format to begin with where ``path`` does not exist.
    info : SlideInfo
        The slide. Files count from where QuPath begins, the page from the corner of the slide.
    """

    def __init__(self, path: Path, info: SlideInfo, given: Path | None = None) -> None:
        self.path = path
        self._given = given
        self._info = info
        self._lock = Lock()

    def features(self) -> list[Feature]:
        """Return all objects of the file, as GeoJSON, each with an id.

        Raises
        ------
        AnnotationError
            If the file is no GeoJSON.
        """
        return list(self._read().values())

    def areas(self) -> tuple[Annotation, ...]:
        """Return the named areas, as every command reads them; empty without a file."""
        file = self._source()
        return () if file is None else self._areas(file)

    def _areas(self, file: Path) -> tuple[Annotation, ...]:
        return read_annotations(file, self._info.size_wh, bounds_xy=self._info.bounds_xy)

    def apply(self, request: Any) -> dict[str, Changes]:  # noqa: ANN401 -- JSON
        """Make a change and write it.

        Parameters
        ----------
        request : parsed JSON
            One of: ``{"put": {"id", "geometry", "name", "color"}}`` adds or replaces an area;
            ``{"brush": {"id", "points", "radius", "name", "color"}}`` adds what a brush covers;
            ``{"erase": {"points", "radius"}}`` takes it away from every area; ``{"restore":
            {id: object or null}}`` puts objects back as they were.

        Returns
        -------
        dict
            ``done`` and ``undo``: objects by id as they are now, and as they were before.

        Raises
        ------
        BadShape
            If the request is none of these.
        AnnotationError
            If the file on disk is damaged; it is left as it is.
        """
        change = _parse(request)
        with self._lock:
            before = self._read()
            done = {
                key: feature
                for key, feature in change(before).items()
                if before.get(key) != feature
            }
            undo = {key: before.get(key) for key in done}
            after = {**before, **done}
            if len(after) > MAX_FEATURES:
                raise BadShape(f"a slide holds {MAX_FEATURES} objects at most")
            if done:
                self._write({key: feature for key, feature in after.items() if feature is not None})
        return {"done": done, "undo": undo}

    def _source(self) -> Path | None:
        """Return the file that is read: the labels, or what was given to begin with."""
        return self.path if self.path.exists() else self._given

    def _read(self) -> dict[str, Feature]:
        source = self._source()
        if source is None:
            return {}
        if source != self.path and not _is_geojson(source):
            return _import(self._areas(source))
        return {part["id"]: _moved(part, self._info.bounds_xy) for part in _load(source)}

    def _write(self, features: Mapping[str, Feature]) -> None:
        x, y = self._info.bounds_xy
        document = {
            "type": "FeatureCollection",
            "features": [_moved(feature, (-x, -y)) for feature in features.values()],
        }
        with replace_atomically(self.path) as partial:
            partial.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def make_feature(key: str, geometry: dict[str, Any], name: str, color: str) -> Feature:
    """Make an object as QuPath exports an annotation."""
    rgb = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return {
        "type": "Feature",
        "id": key,
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": rgb},
        },
    }


def _parse(request: Any) -> Callable[[dict[str, Feature]], Changes]:  # noqa: ANN401 -- JSON
    """Turn a request into a function of the objects that are there."""
    kinds = {"put": _put, "brush": _brush, "erase": _erase, "restore": _restore}
    if not isinstance(request, dict) or len(request) != 1 or not (set(request) <= set(kinds)):
        raise BadShape(f"a change is one of {', '.join(kinds)}")
    ((kind, values),) = request.items()
    if not isinstance(values, dict):
        raise BadShape(f"{kind} needs an object")
    return kinds[kind](values)


def _put(values: dict[str, Any]) -> Callable[[dict[str, Feature]], Changes]:
    key, name, color = _key(values), _name(values), _color(values)
    geometry = parse_area(values.get("geometry"))

    def change(before: dict[str, Feature]) -> Changes:
        made = make_feature(key, geometry, name, color)
        old = before.get(key)
        if old is None:
            return {key: made}
        # what QuPath knows of an object besides its class is kept
        return {key: {**old, **made, "properties": {**_properties(old), **made["properties"]}}}

    return change


def _brush(values: dict[str, Any]) -> Callable[[dict[str, Feature]], Changes]:
    covered = to_geojson(brush_area(values.get("points", ()), _number(values, "radius")))
    made = make_feature(_key(values), covered, _name(values), _color(values))
    return lambda _: {made["id"]: made}


def _erase(values: dict[str, Any]) -> Callable[[dict[str, Feature]], Changes]:
    rubber = brush_area(values.get("points", ()), _number(values, "radius"))

    def change(before: dict[str, Feature]) -> Changes:
        changes: Changes = {}
        for key, feature in before.items():
            if (feature.get("geometry") or {}).get("type") not in ("Polygon", "MultiPolygon"):
                continue
            left = erase(feature["geometry"], rubber)
            if left is not feature["geometry"]:
                changes[key] = None if left is None else {**feature, "geometry": left}
        return changes

    return change


def _restore(values: dict[str, Any]) -> Callable[[dict[str, Feature]], Changes]:
    changes: Changes = {}
    for key, feature in values.items():
        if not _ID.match(key):
            raise BadShape(f"{key!r} is no id of an object")
        if feature is not None:
            if not isinstance(feature, dict) or feature.get("id") != key:
                raise BadShape(f"object {key} has another id")
            feature = {
                **feature,
                "type": "Feature",
                "geometry": parse_area(feature.get("geometry")),
            }
        changes[key] = feature
    return lambda _: changes


def _properties(feature: Feature) -> dict[str, Any]:
    return dict(feature.get("properties") or {})


def _key(values: dict[str, Any]) -> str:
    key = values.get("id")
    if not isinstance(key, str) or not _ID.match(key):
        raise BadShape(f"an object needs a UUID as its id, got {key!r}")
    return key


def _name(values: dict[str, Any]) -> str:
    name = values.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BadShape(f"a class has a name of 1 to {MAX_NAME} letters, got {name!r}")
    return name


def _color(values: dict[str, Any]) -> str:
    color = values.get("color")
    if not isinstance(color, str) or not _COLOR.match(color):
        raise BadShape(f"a colour is written as #rrggbb, got {color!r}")
    return color


def _number(values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadShape(f"{key} must be a number, got {value!r}")
    return float(value)


def _load(path: Path) -> list[Feature]:
    """Read the objects of any of the forms of GeoJSON, giving those an id that have none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{path} cannot be read as GeoJSON ({error}); put it aside or export it again",
            path=path,
        ) from error
    if isinstance(document, dict):
        document = document.get("features", [document])
    if not isinstance(document, list) or not all(isinstance(part, dict) for part in document):
        raise AnnotationError(f"{path} holds no GeoJSON objects; export it again", path=path)
    return [_with_id(part, index) for index, part in enumerate(document)]


def _with_id(part: dict[str, Any], index: int) -> Feature:
    if part.get("type") != "Feature":
        part = {"type": "Feature", "geometry": part, "properties": {}}
    key = part.get("id")
    if isinstance(key, str) and _ID.match(key):
        return part
    text = json.dumps([index, part], sort_keys=True)
    return {**part, "id": str(uuid.uuid5(uuid.NAMESPACE_OID, text))}


def _moved(feature: Feature, by_xy: tuple[int, int]) -> Feature:
    """Move an object; the very same where there is nothing to move."""
    if by_xy == (0, 0) or not feature.get("geometry"):
        return feature
    moved = shapely.affinity.translate(shape(feature["geometry"]), *by_xy)
    return {**feature, "geometry": json.loads(shapely.to_geojson(moved))}


def _is_geojson(path: Path) -> bool:
    """Whether a file is GeoJSON rather than that of another program."""
    if path.suffix.lower() not in (".geojson", ".json"):
        return False
    text = path.read_text(encoding="utf-8-sig", errors="replace")[:4096]
    return '"Feature' in text or '"coordinates"' in text


def _import(areas: Sequence[Annotation]) -> dict[str, Feature]:
    """Make objects of the areas of another format."""
    features = {}
    for index, area in enumerate(areas):
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{index} {area.name} {area.geometry.wkt}"))
        name = {"classification": {"name": area.name}} if area.name else {}
        features[key] = {
            "type": "Feature",
            "id": key,
            "geometry": dict(mapping(area.geometry)),
            "properties": {"objectType": "annotation", **name},
        }
    return features
