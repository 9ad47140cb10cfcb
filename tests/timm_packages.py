"""Makes timm and transformers importable: they lie apart from what the product needs.

Both import torchvision, which registers operators that its compiled part defines. On a machine
whose torch is a processor-only build that part may not load, and every package that looks for
torchvision would fail with it. So ``make env`` installs them in a folder of their own, and the
operators are defined here, without an implementation: nothing that is tested calls them. Users'
torch and torchvision match.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FOLDER = Path(sys.prefix) / "encoders"
OPERATORS = ("nms", "qnms")
_KEPT: list[torch.library.Library] = []  # definitions last as long as their library


@contextmanager
def path_without_timm() -> Iterator[None]:
    """Leave the folder out of what a process that is started meanwhile can import."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if path != str(FOLDER)]
    try:
        yield
    finally:
        sys.path[:] = before


def make_timm_importable() -> None:
    """Put the folder on the path, and define torchvision's operators if it fails without."""
    if not FOLDER.is_dir():
        return  # tests say so and are skipped
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in OPERATORS:
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _KEPT.append(library)
        import torchvision  # noqa: F401 -- now it works
