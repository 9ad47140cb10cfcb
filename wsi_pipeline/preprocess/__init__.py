"""A slide, or labelled images -> a patch store: mask, grid, stain matrix, H/E patches."""
