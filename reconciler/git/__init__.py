"""
Git as a program: processes, objects, fast-import, remotes, and one list of safety settings.
"""
