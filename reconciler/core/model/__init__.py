"""
The values that everything else talks about: specs, runs, statuses.
"""
