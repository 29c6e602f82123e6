"""
The other side of the API: what an outside agent runs.

A request may be sent again at any time; what is held, and what is still to be
reported, is on disk before anything follows from it.
"""
