"""What a store was asked for -> what of it decides the patches, its hash, and how two differ.

An option that is absent has its default, so a store stays the one asked for when options are
added. How patches are laid out in files decides nothing of what is in them.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from wsi_pipeline.config import PipelineConfig

VERSION = 2
"""Of the hash. The first was of every option with its value."""

LAYOUT = frozenset({"store.chunk_patches", "store.shard_patches"})
"""Options that say which patches share a file."""

PERMISSIONS = frozenset({"stain.strict_stain", "tile.allow_upsampling"})
"""Options that say whether a store is made, not what is in it."""

FILES = frozenset({"labels", "roi"})
"""Values that are hashes of a file's content, which tell a person nothing."""

Recipe = dict[str, Any]
"""Plain values: a dict of options per stage, and single values, as a store's header keeps them."""


def decisive(recipe: Recipe) -> dict[str, Any]:
    """Return what decides the patches, by dotted name, without what has its default.

    Parameters
    ----------
    recipe : dict
        All that a store was asked for, as :attr:`StoreHeader.config` has it.

    Returns
    -------
    dict
        Values by ``stage.option``; equal for two stores that hold the same patches of a slide.
    """
    defaults = _defaults()
    return {
        name: value
        for name, value in sorted(_flat(recipe).items())
        if name not in LAYOUT | PERMISSIONS and value != defaults.get(name)
    }


def recipe_hash(recipe: Recipe) -> str:
    """Hash what decides the patches; see :func:`decisive`."""
    text = json.dumps([VERSION, decisive(recipe)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(there: Recipe, wanted: Recipe) -> tuple[str, ...]:
    """Say in which options two stores differ, in the words of the command line.

    Parameters
    ----------
    there, wanted : dict
        What the one was asked for, and what the other is.

    Returns
    -------
    tuple of str
        A phrase per option, such as ``min_tissue 0.5 there, 0.3 wanted``; empty if they do not.
    """
    old, new = decisive(there), decisive(wanted)
    defaults = _defaults()
    return tuple(
        _phrase(name, old.get(name, defaults.get(name)), new.get(name, defaults.get(name)))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


@cache
def _defaults() -> dict[str, Any]:
    # stores made before it was stated stay what they are; from now on another is another store
    return _flat(PipelineConfig().preprocessing()) | {"segmenter_version": "2"}


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Name options ``stage.option``; a value that is a table of its own stays whole."""
    flat: dict[str, Any] = {}
    for stage, value in recipe.items():
        options = value if isinstance(value, dict) else {None: value}
        flat |= {stage if key is None else f"{stage}.{key}": v for key, v in options.items()}
    return flat


def _phrase(name: str, there: object, wanted: object) -> str:
    option = name.rpartition(".")[2]
    if name in FILES:
        return f"{option} {_file(there)} there, {_file(wanted)} wanted"
    return f"{option} {_value(there)} there, {_value(wanted)} wanted"


def _file(content: object) -> str:
    return "none" if content is None else f"a file of content {str(content)[:8]}"


def _value(value: object) -> str:
    return "none" if value is None else str(value)
