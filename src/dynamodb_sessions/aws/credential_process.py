"""Ends a credential_process that hangs: botocore waits for it without end, and so would whoever needs credentials.

It imports no SDK: it changes what a session of botocore's was made of.
"""

import subprocess
from functools import partial
from typing import Any


class CredentialProcessHangs(Exception):
    """Raised if a credential_process did not end in time. It takes the seconds."""


class _Process(subprocess.Popen[bytes]):
    """A process that is ended after some seconds."""

    def __init__(self, *arguments: Any, seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seconds = seconds

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:  # noqa: A002
        try:
            return super().communicate(input, timeout or self._seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()
            for pipe in (self.stdout, self.stderr):
                if pipe is not None:
                    pipe.close()
            raise CredentialProcessHangs(self._seconds) from None


def end_after(session: Any, seconds: float) -> None:
    """Have every credential_process that a botocore session runs end after some seconds. It has no option for that."""
    resolver = session.get_component("credential_provider")
    popen = partial(_Process, seconds=seconds)
    for provider in resolver.providers:
        if hasattr(provider, "_popen"):
            provider._popen = popen  # noqa: SLF001
        builder: Any = getattr(provider, "_profile_provider_builder", None)  # Of a role's source_profile.
        create = getattr(builder, "_create_process_provider", None)
        if create is not None:
            builder._create_process_provider = partial(_create, create, popen)  # noqa: SLF001


def _create(create: Any, popen: Any, profile_name: str) -> Any:
    provider = create(profile_name)
    provider._popen = popen  # noqa: SLF001
    return provider
