"""Bags of patch features -> classes of whole slides: multiple-instance learning.

Files of features are read by others.
"""

from __future__ import annotations
