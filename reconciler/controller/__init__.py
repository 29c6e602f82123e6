"""
The control loop: one loop, one inbox, one writer.

Whatever happens arrives as a fact in the inbox; only the loop reads it,
and only the loop changes state. It reaches the outside only through `ports`.
"""
