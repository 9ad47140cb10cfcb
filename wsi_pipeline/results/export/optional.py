"""Names of packages that are installed on request -> the packages, or how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from wsi_pipeline.errors import ExportError


def import_optional(module: str, extra: str) -> Any:  # noqa: ANN401 -- a module
    """Import a package that one export needs.

    Parameters
    ----------
    module : str
        The package.
    extra : str
        Extra of this package that installs it.

    Raises
    ------
    ExportError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ExportError(
            f"this export needs {error.name}; install it: pip install 'wsi-pipeline[{extra}]'"
        ) from error
