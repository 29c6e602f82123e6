"""
Git: objects read by commit, state written by one writer, history, remotes.

Git itself writes every byte of the repository. Nobody's index, work tree or
checked-out branch is ever touched.
"""
