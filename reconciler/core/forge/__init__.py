"""
Pull requests, issues and comments: what they mean, and what a forge should show.
"""
