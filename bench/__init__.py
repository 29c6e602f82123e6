"""
Benchmarks: `python -m bench` runs them, each beside its floor or its peer in the same run.
"""
