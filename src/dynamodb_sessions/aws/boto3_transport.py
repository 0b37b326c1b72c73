"""The default transport: low-level boto3 calls, each in a worker thread, each with a deadline, errors translated.

boto3 is imported only when a client is built.
"""

import contextlib
import os
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from dynamodb_sessions.aws.client_events import Attempt, our_attempt, watch
from dynamodb_sessions.aws.errors import Refused, blames_credentials, naming_the_source, translate
from dynamodb_sessions.aws.log_redaction import install, redacted_logs
from dynamodb_sessions.aws.setup_errors import SetupError, build_problem, check_region, not_set_up
from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS, TurnTakingLock, in_thread
from dynamodb_sessions.aws.total_deadline import reads_end_by
from dynamodb_sessions.exceptions import ConfigurationError, StoreUnavailable
from dynamodb_sessions.forks import tell_of_forks

_RENEWAL_SECONDS = 1.0
"""The least time between two looks for credentials, while those that are found are refused."""

_PROCESS_SHARE = 0.8
"""How much of the timeout a credential_process may take."""


class Boto3Transport:
    """Calls DynamoDB through a boto3 client: the given one, or its own, built at once."""

    def __init__(
        self,
        client: Any = None,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.timeout = timeout
        self._region_name = region_name
        self._endpoint_url = endpoint_url
        self._client = client
        self._is_ours = client is None
        self._session: Any = None
        """boto3's: what our client was built from. It keeps the credentials that it has found."""
        self._failure: ConfigurationError | None = None
        """Why no client could be built, when that was last tried."""
        self._looked_at = 0.0
        """When the credentials were last looked for, on the monotonic clock."""
        self._are_refused = False
        """Whether a call was refused for the credentials of our client, or for want of them."""
        self._lock = threading.Lock()
        self._turn_taking: TurnTakingLock | None = None
        tell_of_forks(self)
        if client is not None:
            if not callable(getattr(client, "get_item", None)):
                raise ConfigurationError(
                    f'client={client!r} must be "async" or a client, like boto3.client("dynamodb")'
                )
            watch(client)
        else:
            # What is wrong is said when it is needed: an app with a fallback must be able to start without.
            with contextlib.suppress(ConfigurationError):
                self.client  # noqa: B018

    @property
    def client(self) -> Any:
        """The boto3 client. Raises ConfigurationError if none can be built."""
        before = self._failure
        with self._lock:
            if self._client is None:
                # Else those who wait for a credential_process that hangs would wait for another one each.
                if self._failure is not None and self._failure is not before:
                    raise self._failure.with_traceback(None)
                self._client = self._build()
            return self._client

    @property
    def region_name(self) -> str | None:
        """The region that is called; None: there is no client yet."""
        meta = getattr(self._client, "meta", None)
        return None if meta is None else meta.region_name

    def forked(self) -> None:
        """Begin anew in a forked process: the connections are the parent's, and so may be the answers out of them."""
        self._lock = threading.Lock()
        if self._is_ours:
            self._client = self._session = None

    def check_event_loop(self) -> None:
        """Do nothing: calls are made in threads, whichever event loop runs."""

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from a worker thread.

        Raises Refused if it was refused for credentials that may be others by now: the next attempt has them.
        """
        attempt = Attempt(operation, deadline)

        def call() -> dict[str, Any]:
            client = self.client
            try:
                return self._send(client, attempt, parameters)
            except ConfigurationError:
                if attempt.blames_credentials and self._renew(client):
                    raise Refused("the credentials were refused, and are looked for again") from None
                raise

        return await in_thread(call, timeout=deadline - time.monotonic())

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from this thread. It ends within the timeout, however slowly its reply comes."""
        attempt = Attempt(operation, time.monotonic() + self.timeout)
        with reads_end_by(attempt.deadline):
            return self._send(self.client, attempt, parameters)

    def _send(self, client: Any, attempt: Attempt, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            with our_attempt(attempt), redacted_logs(), self._turn():
                result: dict[str, Any] = getattr(client, attempt.operation)(**parameters)
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say that there is no session
            # Without its cause, which may quote the request.
            meant = translate(error)
            if self._is_ours and (attempt.blames_credentials or blames_credentials(error)):
                attempt.blames_credentials = self._are_refused = True
                signer = getattr(client, "_request_signer", None)
                meant = naming_the_source(meant, getattr(signer, "_credentials", None))
            raise meant from None
        return result

    async def close(self) -> None:
        """Close the client, if it is not a given one. A later call builds another one."""
        if not self._is_ours:
            return
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def credentials(self) -> Any:
        """Look for the credentials, once: what boto3 has found. None: none, and the next call looks again.

        Raises StoreUnavailable if somebody else looks for them all the time: there may be a process that hangs, and
        those who wait for it are not to fill the pool of threads.
        """
        if not self._lock.acquire(timeout=self.timeout):
            raise StoreUnavailable("the credentials take too long to be found")
        try:
            if self._session is None:
                self._session = self._new_session()
            found = self._session.get_credentials()
            if found is None:
                self._client = self._session = None
            return found
        finally:
            self._lock.release()

    def forget_credentials(self) -> bool:
        """Have the next call look for credentials again, in place of refused ones. False if that was a moment ago."""
        with self._lock:
            return self._forget()

    def renew(self) -> None:
        """Build our client anew, at the next call, if one was refused for its credentials.

        A client keeps for ever the credentials that it was built with, be they none.
        """
        if self._are_refused:
            with self._lock:
                self._client = self._session = None
                self._are_refused = False

    def _renew(self, refused: Any) -> bool:
        """Have our client built anew, unless that was a moment ago. Whether it may have other credentials now."""
        with self._lock:
            return self._client is not refused or self._forget()  # Or somebody else was first.

    def _forget(self) -> bool:
        """As `forget_credentials`. The caller holds the lock."""
        self._are_refused = True
        if time.monotonic() - self._looked_at < _RENEWAL_SECONDS:
            return False
        self._client = self._session = None
        return True

    def _turn(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._turn_taking is None else self._turn_taking.call()

    def _build(self) -> Any:
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        # botocore's own default has changed between releases, and its read timeout is for every recv: see `timeout`.
        config = Config(
            # So that what became of an attempt can be found out before the deadline.
            connect_timeout=self.timeout / 5,
            read_timeout=self.timeout / 5,
            # An attempt is not the operation: what is sent again, and when, is decided in `table_calls.py`.
            retries={"mode": "legacy", "total_max_attempts": 1},
            max_pool_connections=MAX_CONCURRENT_CALLS,
            tcp_keepalive=True,
            # What is sent is made here, and DynamoDB checks it.
            parameter_validation=False,
            # Put together anew for every request, it takes longer than signing does.
            user_agent=f"Boto3/{boto3.__version__} dynamodb-sessions",
        )
        install()
        try:
            with redacted_logs():
                if self._session is None:
                    self._session = self._new_session()
                client = self._session.client("dynamodb", endpoint_url=self._endpoint_url, config=config)
        except Exception as error:  # noqa: BLE001 - a broken profile, region or endpoint: all are configuration
            self._session = None  # The next one reads the configuration anew.
            # Not from the error itself, which may quote credentials.
            problem = build_problem(error)
            self._failure = not_set_up(problem, error, doing="no DynamoDB client can be built")
            raise self._failure from SetupError(problem)
        watch(client)
        self._turn_taking = TurnTakingLock()
        self._turn_taking.follow(client)
        return client

    def _new_session(self) -> Any:
        """Return a session of boto3's, which reads variables and files anew, and asks for credentials in our region."""
        import boto3  # noqa: PLC0415
        from botocore.session import get_session  # noqa: PLC0415

        from dynamodb_sessions.aws.credential_process import end_after  # noqa: PLC0415 - it imports botocore

        self._looked_at = time.monotonic()
        botocore_session = get_session()
        # Lambda and containers set AWS_REGION; boto3 reads only AWS_DEFAULT_REGION.
        region_name = self._region_name or os.environ.get("AWS_REGION") or None
        session = boto3.Session(region_name=region_name, botocore_session=botocore_session)
        check_region(session.region_name)
        # So that it ends before whoever waits for the credentials does.
        end_after(botocore_session, self.timeout * _PROCESS_SHARE)
        return session
