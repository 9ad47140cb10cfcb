"""Bags of patch features -> classes of whole slides: multiple-instance learning.

The networks are those of torchmil, which this package alone imports. Files of features are read by
others.
"""

from __future__ import annotations
