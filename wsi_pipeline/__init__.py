"""From whole-slide images to H/E patches, patch labels, heatmaps and bags."""
