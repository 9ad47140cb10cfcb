"""Bags of patients and how long they were followed -> a model of their risk.

The heads are those of classes with one output, which is read as the logarithm of the hazard.
"""
