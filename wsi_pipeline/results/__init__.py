"""Predictions -> what people look at and what other programs open."""
