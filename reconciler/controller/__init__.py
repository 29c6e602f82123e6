"""
The doing part: one loop, one inbox, one writer.

Everything that happens becomes an event in the inbox; the loop alone reads it
and nobody else changes state. It knows the outside only through `ports`.
"""
