"""Patches read in ranges and a network -> its logits, as fast as the devices allow.

Reading, copying and computing overlap, batches are sized to the memory of the device, and several
devices share one slide. Knows no slides, stores or files, and checks nothing that a specification
of a model says of its patches.
"""

from __future__ import annotations

from wsi_pipeline.inference.devices import choose_devices
from wsi_pipeline.inference.engine import run_network
from wsi_pipeline.inference.feeds import Feed, he_feed, rgb_feed, unmixing_feed

__all__ = [
    "Feed",
    "choose_devices",
    "he_feed",
    "rgb_feed",
    "run_network",
    "unmixing_feed",
]
