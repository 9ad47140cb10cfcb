"""The packages of an install: all pinned, none with a known hole."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
ADVISORIES = tomllib.loads((ROOT / ".ci" / "advisories.toml").read_text())["advisory"]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    stated = [line.split("#")[0].strip() for line in lines]
    found = [Requirement(line) for line in stated if line]
    assert all(str(one.specifier).startswith("==") for one in found), "a pin is an exact version"
    return {
        canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in found
    }


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dev = project["optional-dependencies"]["dev"]
    return [Requirement(text) for text in (*project["dependencies"], *dev)]


def test_every_package_that_is_asked_for_is_pinned_within_its_range() -> None:
    pinned = pins()
    wrong = [
        str(one)
        for one in wanted()
        if canonicalize_name(one.name) not in pinned
        or not one.specifier.contains(pinned[canonicalize_name(one.name)], prereleases=True)
    ]
    assert wrong == []


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda one: one["package"])
def test_no_pin_has_a_known_hole(advisory: dict[str, str]) -> None:
    pinned = pins().get(canonicalize_name(advisory["package"]))
    assert pinned is None or pinned >= Version(advisory["fixed"]), advisory["what"]
