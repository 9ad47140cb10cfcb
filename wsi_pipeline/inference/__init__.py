"""Patches read in ranges and a network -> its outputs, as fast as the devices allow.

Reading, copying and computing overlap, batches are sized to the memory of the device, and several
devices share one slide. Knows no slides, stores or files, and checks nothing that a specification
of a model says of its patches.
"""

from __future__ import annotations

from wsi_pipeline.inference.devices import arithmetic, choose_devices
from wsi_pipeline.inference.engine import Outputs, run_network
from wsi_pipeline.inference.feeds import Feed, encoder_feed, he_feed, rgb_feed, unmixing_feed
from wsi_pipeline.inference.stages import Restain

__all__ = [
    "Feed",
    "Outputs",
    "Restain",
    "arithmetic",
    "choose_devices",
    "encoder_feed",
    "he_feed",
    "rgb_feed",
    "run_network",
    "unmixing_feed",
]
