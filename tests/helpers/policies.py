"""What an IAM policy grants."""

import json
from fnmatch import fnmatchcase

Permission = tuple[str, str]

ACCOUNT = "arn:aws:dynamodb:us-east-1:123456789012"


def granted(policy: str) -> set[Permission]:
    """Return what a policy allows. Raises AssertionError for what is not plain to read, wildcards among it."""
    permissions = set()
    for statement in json.loads(policy)["Statement"]:
        assert statement.keys() == {"Sid", "Effect", "Action", "Resource"}
        assert statement["Effect"] == "Allow"
        for resource in statement["Resource"]:
            account, _, name = resource.partition(":table/")
            assert fnmatchcase(ACCOUNT, account)
            permissions |= {(action, name) for action in statement["Action"]}
    assert not any(sign in text for permission in permissions for text in permission for sign in "*?")
    return permissions
