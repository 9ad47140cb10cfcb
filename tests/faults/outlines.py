"""Small sound annotations in every format that is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from shapely.geometry import box, mapping


def _ring() -> list[list[float]]:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([4_000 + 1_500 * np.cos(angle), 4_000 + 1_500 * np.sin(angle)], axis=1)
    return [list(map(float, xy)) for xy in ring.round(1)]


def write_geojson(path: Path) -> None:
    """Two areas as QuPath exports them, one with a hole."""
    ring = _ring()
    hole = [[4_000.0, 4_000.0], [4_100.0, 4_000.0], [4_100.0, 4_100.0], [4_000.0, 4_000.0]]
    shape = {"type": "Polygon", "coordinates": [[*ring, ring[0]], hole]}
    features = [
        {
            "type": "Feature",
            "geometry": geometry,
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, geometry in (("Tumor", shape), ("Stroma", mapping(box(0, 0, 900, 700))))
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_asap(path: Path) -> None:
    """An area as ASAP writes it."""
    points = "\n".join(
        f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in enumerate(_ring())
    )
    path.write_text(
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>\n<Annotation Name="a" '
        f'Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>\n{points}\n'
        f"</Coordinates></Annotation></Annotations><AnnotationGroups/></ASAP_Annotations>"
    )


def write_imagescope(path: Path) -> None:
    """An area with a hole as ImageScope writes it."""
    points = "\n".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in _ring())
    region = (
        f'<Region Id="1" Type="0" Text="t" NegativeROA="0"><Vertices>{points}</Vertices></Region>'
    )
    hole = region.replace('Id="1"', 'Id="2"').replace('ROA="0"', 'ROA="1"').replace("5500", "4500")
    path.write_text(
        f'<Annotations MicronsPerPixel="0.25">\n<Annotation Id="7" Name="Tumor"><Attributes/>\n'
        f"<Regions>{region}\n{hole}</Regions></Annotation></Annotations>"
    )


def write_camicroscope(path: Path) -> None:
    """An area in shares of the slide."""
    shares = [[x / 20_000, y / 10_000] for x, y in _ring()]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [shares]}}
    path.write_text(
        json.dumps(
            [
                {
                    "properties": {"annotations": {"notes": "Low NC "}},
                    "geometries": {"features": [feature]},
                }
            ]
        )
    )


def write_ncrf(path: Path) -> None:
    """Two areas in lists of vertices."""
    area = {"name": "Annotation 0", "vertices": _ring()}
    path.write_text(json.dumps({"positive": [area], "negative": [area]}))
