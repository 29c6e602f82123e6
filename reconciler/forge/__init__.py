"""
Forges: pull requests, reviews, issues, and the webhooks that hint at them.

A webhook is a hint to look; what the forge says when it is asked is what counts.
"""
