"""
Specs: YAML files to values, or every mistake with file, line and column.

Bytes come in, `core.model` values or `Problem`s go out. Nothing here reads
git: the files of a revision are handed in.
"""
