"""
Wiring: what `run` and `serve` are made of.
"""
