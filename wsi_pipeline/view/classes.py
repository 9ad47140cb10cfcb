"""The classes that a person labels with, and their colours: kept beside the results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.learn.session import ClassName
from wsi_pipeline.view.labels import MAX_NAME

if TYPE_CHECKING:
    from wsi_pipeline.view.slides import Slides

COLORS = (
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#7f7f7f",
)  # fmt: skip
"""Colours that people with any colour vision tell apart [1]_, given to classes in turn.

.. [1] M. Okabe and K. Ito, Color Universal Design, 2008."""

MOST_CLASSES = 64

CLASSES_NAME = "classes.json"
LABEL_MAP_NAME = "classes.toml"


def default_classes(names: Iterable[str]) -> list[ClassName]:
    """Give names the default colours, in their order."""
    return [
        ClassName(name=name, color=COLORS[index % len(COLORS)])
        for index, name in enumerate(dict.fromkeys(names))
    ]


def read_classes(folder: Path) -> list[ClassName]:
    """Read the classes kept in a folder; none if they were never written.

    Raises
    ------
    ConfigError
        If the file is damaged.
    """
    path = folder / CLASSES_NAME
    if not path.exists():
        return []
    try:
        return parse_classes(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove it") from error


def write_classes(folder: Path, classes: list[ClassName]) -> None:
    """Keep the classes, and write them as a label map for ``preprocess --label-map``."""
    plain = [{"name": entry.name, "color": entry.color} for entry in classes]
    with replace_atomically(folder / CLASSES_NAME) as partial:
        partial.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    label_map = {"classes": {entry.name: [entry.name] for entry in classes}}
    with replace_atomically(folder / LABEL_MAP_NAME) as partial:
        partial.write_text(tomli_w.dumps(label_map), encoding="utf-8")


def parse_classes(values: Any) -> list[ClassName]:  # noqa: ANN401 -- JSON
    """Check a list of classes.

    Raises
    ------
    ConfigError
        If it is none, or a name repeats.
    """
    if not isinstance(values, list) or len(values) > MOST_CLASSES:
        raise ConfigError(f"classes are a list of at most {MOST_CLASSES}")
    classes = []
    for value in values:
        name, color = (
            (value.get(key) for key in ("name", "color"))
            if isinstance(value, dict)
            else (None, None)
        )
        if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME:
            raise ConfigError(f"a class has a name of 1 to {MAX_NAME} letters, got {name!r}")
        if not isinstance(color, str) or len(color) != 7 or color[0] != "#":
            raise ConfigError(f"the colour of {name!r} must be #rrggbb, got {color!r}")
        try:
            int(color[1:], 16)
        except ValueError as error:
            raise ConfigError(f"the colour of {name!r} must be #rrggbb, got {color!r}") from error
        classes.append(ClassName(name=name.strip(), color=color.lower()))
    names = [entry.name for entry in classes]
    if len(set(names)) != len(names):
        raise ConfigError(f"classes repeat: {', '.join(names)}")
    return classes


def classes_of(slides: Slides, wanted: Sequence[str] | None = None) -> list[ClassName]:
    """Find the classes of the areas drawn on slides.

    Parameters
    ----------
    slides : Slides
        The slides.
    wanted : sequence of str or None
        Names to tell apart; all that were drawn if None.

    Returns
    -------
    list of ClassName
        With the colours kept for them, and default ones for the others.
    """
    labelled = [name for name in slides.slide_ids() if slides.has_labels(name)]
    drawn = {area.name for name in labelled for area in slides.areas(name) if area.name}
    kept = {entry.name: entry.color for entry in read_classes(slides.folder.work)}
    names = [name.strip() for name in wanted] if wanted is not None else sorted(drawn)
    colored = default_classes([*kept, *(name for name in names if name not in kept)])
    colors = {entry.name: entry.color for entry in colored} | kept
    return [ClassName(name=name, color=colors[name]) for name in names]
