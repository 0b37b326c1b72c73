"""What an operator runs: the command line, the doctor, and what there is to deploy, as text.

It stands on `session`, `stores` and `aws`; nothing stands on it.
"""
