"""
The values that everything else talks about: specs, runs, statuses, and what a forge shows.
"""
