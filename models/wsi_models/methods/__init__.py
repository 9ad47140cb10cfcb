"""Ways to train a classifier of patches, chosen by a configuration."""
