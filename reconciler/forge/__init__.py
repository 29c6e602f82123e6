"""
Forges: pull requests, reviews, issues, and the webhooks that hint at them.

A webhook is only a hint; state is always read from the forge's API.
"""
