"""A slide and its tissue mask -> the places of its tiles, each with a reason or a class.

Pure geometry over the types of the pipeline: no slide and no annotation file is read here.
"""
