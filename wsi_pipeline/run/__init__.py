"""A list of slides -> the results of each and a report; the only place that survives bad slides."""
