"""Where sessions are kept: one contract, and the stores that keep it.

A store moves records of strings: it knows nothing of requests, and Python values only where a record is opened.
"""
