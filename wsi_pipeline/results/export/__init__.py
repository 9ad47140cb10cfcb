"""Predictions -> files that other programs open, one module per target."""
