"""
Pages: the fleet in a browser, made on the server from what the API serves.

Every page is whole without JavaScript; with it, a stream says that something
changed and the page fetches itself again. Nothing is asked of another server,
and nothing that a task, an agent or a forge says is more than text here.
"""
