"""
One run: what is carried out, how its end is read, what follows from it.
"""
