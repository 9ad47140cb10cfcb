"""What can be wrong with an encoder, its weights or its card besides the program."""

from __future__ import annotations


class EncoderError(ValueError):
    """An encoder is not known, cannot be built, or its weights cannot be had or trusted."""
