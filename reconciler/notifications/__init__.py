"""
Messages out: to chats, phones and mailboxes, by Apprise.
"""
