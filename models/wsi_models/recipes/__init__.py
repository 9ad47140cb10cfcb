"""Recipes that come with the package -> their files, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from wsi_models.errors import TrainingError


def find_recipe(name: str) -> Path:
    """Find a recipe.

    Parameters
    ----------
    name : str
        A file, or the name of a recipe that comes with the package.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TrainingError
        If there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    recipes = _found()
    known = Path(name).name.removesuffix(".toml")
    if name in recipes:
        return recipes[name]
    hint = f"; there is one called {known}" if known in recipes else ""
    raise TrainingError(
        f"there is no recipe {name!r}{hint}; give a TOML file or one of: {', '.join(recipes)}"
    )


def _found() -> dict[str, Path]:
    with resources.as_file(resources.files("wsi_models") / "recipes") as folder:
        return {file.stem: file for file in sorted(folder.glob("*.toml"))}
