"""What speaks HTTP: cookies, responses, and one request or websocket from its cookie to its last commit.

It decides when a session is loaded and saved; what is saved, and where, is for `session` and `stores` to say.
"""
