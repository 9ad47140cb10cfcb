"""A TOML file -> everything a training run depends on besides its patches, checked.

Says what is done; :mod:`wsi_models.experiment` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_files import UnreadableError
from wsi_files.settings import explain_invalid, read_toml
from wsi_models.errors import TrainingError
from wsi_models.methods import MethodChoices, method_configs
from wsi_models.splits import SplitConfig
from wsi_models.task import TrainConfig

RECIPE_FILE = "recipe.json"
"""Name of the recipe in the folder of a run."""

if TYPE_CHECKING:
    AnyMethod = MethodChoices
else:
    # built when recipes are first needed, so that packages that bring a method can import ours
    AnyMethod = Annotated[reduce(or_, method_configs().values()), Field(discriminator="method")]

LENGTH_KEYS = frozenset({"train.epochs", "train.patience"})
"""What a run that goes on may change."""

Color = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassesConfig(_Part):
    """Which classes there are."""

    names: tuple[str, ...] = Field(
        (), description="Classes in the order of the outputs; all labels, sorted, if not given."
    )
    labels: dict[str, str] = Field(
        {}, description="Class of each stored label that is not called as its class."
    )
    colors: tuple[Color, ...] = Field(
        (), description="Colour of each class in heatmaps; chosen for you if not given."
    )


class ImagesConfig(_Part):
    """A set of labelled images that a recipe is for, as it is downloaded."""

    about: str = Field(
        min_length=1, description="What the images are, whose, and their licence; for the card."
    )
    mpp: float = Field(gt=0, allow_inf_nan=False, description="Resolution of the images, um/px.")
    patch_px: int | None = Field(
        None, ge=8, le=4096, description="Side of the patches, px; that of the images if not given."
    )
    group_column: str | None = Field(
        None, description="Column of their table with the patient, slide or prototype."
    )
    group_pattern: str | None = Field(
        None, description="Regular expression that finds the patient or slide in their names."
    )


class Recipe(_Part):
    """Everything a training run depends on besides its patches."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Names the bundle and its predictions."
    )
    images: ImagesConfig | None = Field(
        None, description="How the images become patches that 'train --images' names."
    )
    classes: ClassesConfig = ClassesConfig()
    split: SplitConfig = SplitConfig()
    train: TrainConfig = TrainConfig()
    method: AnyMethod

    def settled(self) -> Recipe:
        """Return the recipe with every length that it left open, from the epochs of training."""
        return self.model_copy(update={"method": self.method.settled(self.train.epochs)})


def differing_keys(given: Recipe, saved: Recipe) -> list[str]:
    """Name what two recipes differ in, but for how long is trained: ``key there, here``.

    Parameters
    ----------
    given, saved : Recipe
        The recipe asked for, and that of a run.
    """
    here, there = _flat(given.model_dump(mode="json")), _flat(saved.model_dump(mode="json"))
    return [
        f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key) and key not in LENGTH_KEYS
    ]


def load_recipe(path: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path : Path
        TOML file with ``name`` and the tables ``images``, ``classes``, ``split``, ``train`` and
        ``method``.
    overrides : mapping of mapping or None
        Values that beat the file, by table and key.

    Returns
    -------
    Recipe
        The recipe; what the file leaves out has its default.

    Raises
    ------
    TrainingError
        If the file is not TOML, or a key or value is not valid.
    """
    try:
        values = read_toml(path)
    except UnreadableError as error:
        raise TrainingError(str(error)) from error
    for table, keys in (overrides or {}).items():
        values[table] = {**_table(values, table, path), **keys}
    return _parse(values, path)


def read_saved_recipe(path: Path) -> Recipe:
    """Read the recipe that a run keeps as JSON."""
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(
            f"{path} is not the recipe of a run ({error}); give the folder that train wrote"
        ) from error


def _table(values: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise TrainingError(f"{path}: {name} must be a table of options, got {table!r}")
    return table


def _parse(values: dict[str, Any], path: Path) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise TrainingError(
            f"{path}: {explain_invalid(error, 'recipe')}. 'wsi-pipeline config recipe class_m' "
            "prints one that shows every key"
        ) from error


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Name every value of nested tables by the path to it."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat
