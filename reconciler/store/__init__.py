"""
Git: objects read by commit, state written by one writer, history, remotes.

Only git writes to the repository. No user's index, work tree or
checked-out branch is ever touched.
"""
