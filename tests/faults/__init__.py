"""Inputs that are damaged or malicious, drawn from seeds, against everything that reads a file.

``python -m tests.faults --count 2400`` runs it and prints a table.
"""
