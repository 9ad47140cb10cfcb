"""A network in an ONNX file -> a module. Sole home of ONNX Runtime in this package.

The file holds a graph and numbers, no code of its own. It is kept in memory as it is, so that the
module can be copied to other devices and processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsi_models.encoders.errors import EncoderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wsi_models.encoders.card import EncoderCard


class OnnxNetwork(nn.Module):
    """Runs a network of an ONNX file.

    Parameters
    ----------
    content : bytes
        The file; one input (B, 3, p, p), float32, and one output (B, F), or (B, F, 1, 1).
    origin : str
        What to call it in messages.

    Raises
    ------
    EncoderError
        If ONNX Runtime is not installed, or cannot open the file.
    """

    content: Tensor

    def __init__(self, content: bytes, origin: str) -> None:
        super().__init__()
        self.register_buffer("content", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._origin = origin
        self._sessions: dict[str, Any] = {}
        self._session("cpu")  # so that a file that is no network is told of at once

    def forward(self, patches: Tensor) -> Tensor:
        """Compute the output of patches, shape (B, F)."""
        session = self._session(patches.device.type)
        given = session.get_inputs()[0]
        values = patches.float().cpu().contiguous().numpy()
        at_once = given.shape[0] if isinstance(given.shape[0], int) else len(values)
        outputs = [
            torch.from_numpy(session.run(None, {given.name: part})[0])
            for part in _parts(values, at_once)
        ]
        return torch.cat(outputs).flatten(1).to(patches.device)

    def __getstate__(self) -> dict[str, Any]:
        """Leave sessions behind: they hold memory of their device."""
        return {**self.__dict__, "_sessions": {}}

    def _session(self, device: str) -> Any:  # noqa: ANN401 -- of a library without types
        if device not in self._sessions:
            self._sessions[device] = _open(bytes(self.content.cpu().numpy()), self._origin, device)
        return self._sessions[device]


def _parts(values: NDArray[np.float32], at_once: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(values), at_once):
        yield values[start : start + at_once]


def _open(content: bytes, origin: str, device: str) -> Any:  # noqa: ANN401 -- as above
    try:
        import onnxruntime
    except ImportError as error:
        raise EncoderError(
            f"{origin} needs ONNX Runtime; run: pip install 'wsi-pipeline[onnx]'"
        ) from error
    wanted = ["CUDAExecutionProvider"] if device == "cuda" else []
    there = onnxruntime.get_available_providers()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=[*(p for p in wanted if p in there), "CPUExecutionProvider"],
        )
    except Exception as error:  # it raises its own kinds, which have no common base
        raise EncoderError(f"{origin} is no network that ONNX Runtime opens: {error}") from error


@dataclass(frozen=True, slots=True)
class OnnxEncoder:
    """An encoder that was exported to ONNX.

    Attributes
    ----------
    card : EncoderCard
        What the TOML file beside it says; it pools as its network does.
    file : Path
        The network.
    """

    card: EncoderCard
    file: Path

    def build(self) -> nn.Module:
        """Open the network; see :class:`~wsi_models.encoders.PatchEncoder`.

        Raises
        ------
        EncoderError
            If it cannot be opened.
        """
        return OnnxNetwork(read_network(self.file), str(self.file))


def read_network(file: Path) -> bytes:
    """Read the file of a network.

    Raises
    ------
    EncoderError
        If it is not there.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise EncoderError(f"{file} cannot be read: {error}; give an .onnx file") from error
