"""Modules without values: shapes alone, for weights that are read from a file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})


@contextmanager
def without_values() -> Iterator[None]:
    """Build modules that take no memory and draw no numbers, within a ``with`` block.

    Notes
    -----
    Drawing on the device ``meta`` draws nothing, but loads the compiler of torch, which takes
    as long as loading torch itself.
    """
    with torch.device("meta"), _NoDraws():
        yield


class _NoDraws(TorchFunctionMode):
    """Leaves tensors as they are where their starting values would be drawn."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 -- as torch declares it
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func in _DRAWS:
            return args[0]
        return func(*args, **(kwargs or {}))
