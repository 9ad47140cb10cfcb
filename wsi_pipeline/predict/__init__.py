"""Patches and a trained model -> probabilities or features, from a store or from the slide."""
