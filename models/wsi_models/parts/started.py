"""The folder of a trained model of RGB patches -> the starting weights of an encoder.

So features learnt without labels can be learnt on with few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_models.model_folder import WEIGHTS_FILE
from wsi_models.parts.imagenet import WeightsError, read_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

PREFIX = "encoder."
"""What the tensors of the encoder are called in every network of RGB patches."""


def start_from_bundle(encoder: nn.Module, folder: Path) -> None:
    """Give an encoder the weights of the encoder of a bundle.

    Parameters
    ----------
    encoder : Module
        Of the same kind and size, for one channel or RGB; changed in place.
    folder : Path
        A bundle of any method on RGB patches.

    Raises
    ------
    WeightsError
        If there are no such weights, or they are of another encoder.

    Notes
    -----
    For one channel the kernels of the first convolution are summed over RGB, as ImageNet's are.
    """
    given = {
        name.removeprefix(PREFIX): weight
        for name, weight in read_weights(folder / WEIGHTS_FILE).items()
        if name.startswith(PREFIX)
    }
    if not given:
        raise WeightsError(
            f"{folder} has no encoder of RGB patches to start from; give the bundle of a method on "
            "RGB, such as clubyol or supervised"
        )
    expected = encoder.state_dict()
    weights = {name: _summed(expected.get(name), weight) for name, weight in given.items()}
    other = sorted(
        name
        for name in expected.keys() | weights.keys()
        if name not in expected
        or name not in weights
        or expected[name].shape != weights[name].shape
    )
    if other:
        raise WeightsError(
            f"{folder} holds another encoder than this one: {len(other)} tensors differ, such as "
            f"{other[0]}; choose the encoder, and its sizes, that the bundle was trained with"
        )
    encoder.load_state_dict(weights)


def _summed(expected: Tensor | None, weight: Tensor) -> Tensor:
    """Sum kernels over RGB where one channel is expected."""
    if expected is None or weight.ndim != 4:
        return weight
    if expected.shape[1] == 1 and weight.shape[1] == 3:
        return weight.sum(dim=1, keepdim=True)
    return weight
