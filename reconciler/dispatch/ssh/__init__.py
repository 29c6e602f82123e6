"""
SSH: connections, sessions, files, jump hosts and host keys. Only this package imports asyncssh.
"""
