"""How DynamoDB is called: transports, attempts, deadlines, errors and signatures.

Nothing here knows of sessions; only a transport imports an SDK or an HTTP client, and only when it is asked for.
"""
