"""A network in evaluation mode -> one that computes the same with fewer passes over memory.

Batch normalisation after a convolution is folded into the convolution's weights. Pairs are found by
watching the network run, and the result is checked against the original; nothing else is changed.
"""

from __future__ import annotations

import copy
from collections import Counter

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit, that folding may make."""

GPU_TOLERANCE = 2e-2
"""The same where convolutions round to 10 bits (TF32): a wrong pair still differs by far more."""


def fold_batch_norms(network: nn.Module, example: Tensor) -> nn.Module:
    """Fold batch normalisation into the convolutions before it.

    Parameters
    ----------
    network : Module
        In evaluation mode; it is not changed.
    example : Tensor
        Input on the device of the network; it is run a few times to find and check the pairs.

    Returns
    -------
    Module
        A copy with the convolutions folded; ``network`` itself where there is nothing to fold, or
        where the copy would give something else, as when a convolution's own output is used twice.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    pairs = _follow(network, example)
    if not pairs:
        return network
    folded = copy.deepcopy(network)
    for conv, norm in pairs:
        before, after = folded.get_submodule(conv), folded.get_submodule(norm)
        assert isinstance(before, nn.Conv2d)
        assert isinstance(after, nn.BatchNorm2d)
        folded.set_submodule(conv, fuse_conv_bn_eval(before, after))
        folded.set_submodule(norm, nn.Identity())
    expected, given = network(example), folded(example)
    tolerance = TOLERANCE if example.device.type == "cpu" else GPU_TOLERANCE
    allowed = tolerance * expected.abs().max().clamp(min=1)
    return folded if bool((expected - given).abs().max() <= allowed) else network


def _follow(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Run a network and note which normalisation took what which convolution had just given."""
    given: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):

            def note(_: nn.Module, __: object, out: Tensor, name: str = name) -> None:
                calls[name] += 1
                given[id(out)] = (name, out)  # kept, so that no other tensor gets its id

            hooks.append(module.register_forward_hook(note))
        elif isinstance(module, nn.BatchNorm2d):

            def match(_: nn.Module, taken: tuple[Tensor, ...], name: str = name) -> None:
                calls[name] += 1
                if id(taken[0]) in given:
                    pairs.append((given[id(taken[0])][0], name))

            hooks.append(module.register_forward_pre_hook(match))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
