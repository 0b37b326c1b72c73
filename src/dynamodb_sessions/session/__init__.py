"""What a session is, how long it lives, and when and how it is saved, in requests and outside them.

Nothing here knows of HTTP, and no store is known by more than its contract.
"""
