"""Names -> parts that can be exchanged: ours, and those that installed packages announce.

A part is named by an entry point, ``module:attribute``, so that its libraries are loaded when it
is first used. Ours are listed in the code, others are found by the group of their entry points.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from wsi_pipeline.errors import ConfigError

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """The parts of one kind, by name.

    Parameters
    ----------
    kind : str
        What the parts are, in the singular, for errors.
    group : str
        Group of entry points under which packages announce theirs.
    own : mapping of str to str
        Ours: name to ``module:attribute``, in the order in which they are offered.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._own = own

    @cached_property
    def _parts(self) -> dict[str, EntryPoint]:
        parts: dict[str, EntryPoint] = {}
        own = (EntryPoint(name, value, self.group) for name, value in self._own.items())
        for part in (*own, *entry_points(group=self.group)):
            taken = parts.setdefault(part.name, part)
            if taken.value != part.value:
                raise ConfigError(
                    f"two packages offer a {self.kind} called {part.name!r}: {taken.value} and "
                    f"{part.value}; uninstall one of them, or rename it"
                )
        return parts

    @property
    def names(self) -> tuple[str, ...]:
        """All names, ours first.

        Raises
        ------
        ConfigError
            If two parts have one name.
        """
        return tuple(self._parts)

    def get(self, name: str) -> Part:
        """Load a part.

        Parameters
        ----------
        name : str
            One of :attr:`names`.

        Returns
        -------
        object
            What its entry point names.

        Raises
        ------
        ConfigError
            If no part has this name, two have it, or it cannot be imported.
        """
        if name not in self._parts:
            raise ConfigError(
                f"there is no {self.kind} {name!r}; choose one of {', '.join(self.names)}, or "
                f"install the package that brings it"
            )
        try:
            part: Part = self._parts[name].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"the {self.kind} {name!r} cannot be loaded from {self._parts[name].value}: {error}"
            ) from error
        return part
