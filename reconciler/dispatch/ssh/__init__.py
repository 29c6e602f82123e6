"""
SSH: connections, sessions, files, jump hosts and host keys. Only this room imports asyncssh.
"""
