"""
The HTTP side: outside agents that pull, forges that tell, people and programs that look.

A handler reads a request, asks one thing of the loop, and renders the answer.
What changes state is on record before it is answered with success.
"""
