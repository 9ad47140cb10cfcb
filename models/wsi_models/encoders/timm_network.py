"""A card -> its network, built by timm. Sole home of timm, which is the extra ``encoders``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from wsi_models.encoders.errors import EncoderError
from wsi_models.encoders.pooling import Pooled

if TYPE_CHECKING:
    from types import ModuleType

    from wsi_models.encoders.card import EncoderCard


@dataclass(frozen=True, slots=True)
class TimmEncoder:
    """An encoder whose network is timm's.

    Attributes
    ----------
    card : EncoderCard
        ``architecture`` and ``arguments`` are timm's own, but for layers, which are named.
    """

    card: EncoderCard

    def build(self) -> nn.Module:
        """Build the network with random weights; see :class:`~wsi_models.encoders.PatchEncoder`.

        Raises
        ------
        EncoderError
            If timm is not installed or does not know the network.
        """
        timm = _import_timm(self.card.name)
        layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": nn.SiLU}
        arguments: dict[str, Any] = {
            name: layers.get(value, value) if isinstance(value, str) else value
            for name, value in self.card.arguments.items()
        }
        try:
            network = timm.create_model(
                self.card.architecture, pretrained=False, num_classes=0, **arguments
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise EncoderError(
                f"timm {timm.__version__} cannot build {self.card.architecture!r} of encoder "
                f"{self.card.name}: {error}; correct its card, or install timm 1.0.31"
            ) from error
        prefix = getattr(network, "num_prefix_tokens", 0)
        return Pooled(network, prefix, self.card.pooling)


def _import_timm(name: str) -> ModuleType:
    try:
        import timm
        import timm.layers
    except (ImportError, RuntimeError) as error:
        # a torchvision that was built for another torch fails with a RuntimeError
        raise EncoderError(
            f"encoder {name} needs timm, which cannot be imported ({error}); run: pip install "
            "'wsi-pipeline[encoders]', with a torchvision that is made for your torch"
        ) from error
    module: ModuleType = timm
    return module
