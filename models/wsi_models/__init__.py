"""Trainable methods for stain-separated patches, and the bundles that carry trained models."""
