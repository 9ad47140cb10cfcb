"""Names that people give -> slides, and slides -> pixels at any place and mpp."""
