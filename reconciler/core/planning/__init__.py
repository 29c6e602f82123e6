"""
What should be done now, and on which host: plan, scheduler, placement, limits, schedules.
"""
