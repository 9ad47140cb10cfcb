"""A results folder -> a local page where people look at slides, label tiles and learn from labels.

The server hands out pixels, maps and labels, and starts jobs; it computes nothing that a command
does not compute too. ``app``, ``guard`` and ``serve`` alone know Starlette and uvicorn, so that
the other modules serve commands that were installed without them.
"""
