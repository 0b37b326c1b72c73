"""Start the arena: `python -m examples.duel_arena`. Unless told otherwise, DynamoDB is an emulator in this process."""

import argparse
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from dynamodb_sessions import DynamoDBStore
from examples.duel_arena.app import create_app
from examples.emulator import Emulator

try:
    import uvicorn
except ModuleNotFoundError:
    sys.exit("The duel arena wants uvicorn and moto: pip install 'dynamodb-sessions[demo]'")

ENDPOINT = "DYNAMODB_ENDPOINT_URL"
KEY = "SESSION_SECRET_KEY"
KEY_FILE = Path(".duel_arena.key")
REGION = "us-east-1"

_GRACE = 3
_MAX_PORT = 65_535
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(options.host, options.port))
        # SIGTERM ends it as Ctrl-C does: the emulator is stopped, and the exit status is 0.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        key = secret_key()
        emulator = None if options.aws or os.environ.get(ENDPOINT) else Emulator()
        if emulator:
            stack.callback(emulator.stop)
        store, backend = _dynamodb(options, emulator)
        _announce(listener, store, backend)
        app = create_app(store, key, closing=lambda: server.should_exit, emulator=emulator)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE)
        )
        server.run(sockets=[listener])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.duel_arena",
        description="An LLM duel arena without the LLM bill, to watch sessions in DynamoDB at work.",
        epilog=f"DynamoDB is an emulator inside this process, unless {ENDPOINT} names another one, or --aws is given.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=_port, help="port to listen on; 0: any (default: %(default)s)")
    parser.add_argument("--aws", action="store_true", help="use DynamoDB itself, with boto3's credentials and region")
    parser.add_argument("--table", default="duel-arena-sessions", help="the table's name (default: %(default)s)")
    parser.add_argument(
        "--create-table", action="store_true", help="create the table in AWS if it is not there; elsewhere it always is"
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to {_MAX_PORT}")
    return int(text)


def _listen(host: str, port: int) -> socket.socket:
    """Return the listening socket, before anything slow is started."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]
        sys.exit(f"Cannot listen on {host}:{port}: {why}. Choose another place with --host and --port.")


def _dynamodb(options: argparse.Namespace, emulator: Emulator | None) -> tuple[DynamoDBStore, str]:
    """Return the store, and where it is in words."""
    if emulator:
        backend = f"an emulated DynamoDB at {emulator.url}: logins last as long as this process"
        return _emulated(options.table, emulator.url), backend
    if options.aws:
        os.environ.pop(ENDPOINT, None)  # A store would look there.
    endpoint_url = os.environ.get(ENDPOINT)
    if endpoint_url and not _is_aws(endpoint_url):
        return _emulated(options.table, endpoint_url), f"DynamoDB at {endpoint_url}, table {options.table}"
    store = DynamoDBStore(options.table, create_table=options.create_table)
    return store, f"DynamoDB in AWS, table {options.table}"


def _is_aws(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(_AWS_HOSTS)


def _emulated(table: str, endpoint_url: str) -> DynamoDBStore:
    """Return a store on an emulator, which asks for credentials and a region but does not mind which."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "arena")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "arena")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or REGION
    return DynamoDBStore(table, region_name=region, endpoint_url=endpoint_url, create_table=True)


def secret_key() -> str | None:
    """Return the key in KEY_FILE, made once. None if the environment has one, which the middleware finds itself."""
    if os.environ.get(KEY):
        return None
    try:
        with contextlib.suppress(FileExistsError), open(os.open(KEY_FILE, _NEW, 0o600), "w") as file:  # noqa: PTH123
            file.write(secrets.token_urlsafe(32))
            print(f"Signing key: made one, kept in {KEY_FILE}")
        key = KEY_FILE.read_text().strip()
    except OSError as error:
        sys.exit(f"{KEY_FILE} cannot be used: {error.strerror}. Set {KEY} instead.")
    if not key:
        sys.exit(f"{KEY_FILE} is empty: delete it, and a new key is made.")
    return key


def _announce(listener: socket.socket, store: DynamoDBStore, backend: str) -> None:
    host, port = listener.getsockname()[:2]
    print(f"Duel Arena is open: http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C closes it)")
    if store.probe():
        print(f"Sessions are in {backend}", flush=True)
    else:
        print(f"Sessions are in memory, for want of {backend}: {store.mode_reason}", flush=True)


if __name__ == "__main__":
    main()
