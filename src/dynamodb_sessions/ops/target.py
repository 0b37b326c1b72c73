"""Target: the table that a command is about, and where to look for it."""

import re
import shlex
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from dynamodb_sessions.aws.table_calls import check_table_name
from dynamodb_sessions.exceptions import ConfigurationError

_REGION = re.compile(r"[a-zA-Z0-9-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """A table and where to look for it; None: where boto3 finds it. Raises ConfigurationError for what is no name."""

    table_name: str
    region_name: str | None = None
    endpoint_url: str | None = field(default=None, repr=False)
    conversations: bool = False
    tenants: bool = False
    """Whether it has, or is to have, the index that finds what belongs to a tenant."""

    def __post_init__(self) -> None:
        check_table_name(self.table_name)
        if self.region_name is not None and not _REGION.fullmatch(self.region_name):
            raise ConfigurationError(f"region={self.region_name!r} is not the name of an AWS region")
        if self.endpoint_url is not None:
            _check_url(self.endpoint_url)

    def command(self, name: str) -> str:
        """Return a command of ours about this table, as it is typed."""
        words = ["dynamodb-sessions", *name.split(), "--table", self.table_name]
        words += ["--region", self.region_name] if self.region_name is not None else []
        words += ["--endpoint-url", self.endpoint_url] if self.endpoint_url is not None else []
        words += ["--conversations"] if self.conversations else []
        words += ["--tenants"] if self.tenants else []
        return f"`{shlex.join(words)}`"


def _check_url(url: str) -> None:
    """Raise ConfigurationError if it is no URL, or may hold a password: one with a slash would end its host before."""
    if "@" in url:
        raise ConfigurationError("an endpoint's address must hold neither a user's name nor a password")
    try:
        urlsplit(url)
    except ValueError:
        raise ConfigurationError("the endpoint's address is no URL: give one like http://127.0.0.1:8000") from None
