"""Building blocks that the methods share: encoders and their pretrained weights."""
