"""DynamoDB for the demos: moto in this process. It can be stopped and started again, and has then forgotten nothing."""

import logging
import sys
from threading import Lock, Thread

import boto3

HOST = "127.0.0.1"


class Emulator:
    """Listens on a free port of this machine. `stop` closes that port, so calls are refused until `start`."""

    def __init__(self) -> None:
        try:
            # Slow to import, and only needed here.
            from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
            from werkzeug.serving import make_server  # noqa: PLC0415
        except ModuleNotFoundError:
            sys.exit("The emulator is moto: pip install 'dynamodb-sessions[demo]'")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # It would log every call.
        self._app = DomainDispatcherApplication(create_backend_app)
        self._make_server = make_server
        self._switching = Lock()
        self._port = 0
        self.is_running = False
        self.start()
        # The first call takes the longest, perhaps longer than a store waits.
        credentials = {"aws_access_key_id": "demo", "aws_secret_access_key": "demo"}
        boto3.client("dynamodb", endpoint_url=self.url, region_name="us-east-1", **credentials).list_tables()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        with self._switching:
            if self.is_running:
                return
            # One call at a time: moto's updates are not atomic among threads, as DynamoDB's are.
            self._server = self._make_server(HOST, self._port, self._app, threaded=False)
            self._port = self._server.port
            self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
            self._thread.start()
            self.is_running = True

    def stop(self) -> None:
        """Stop listening. The tables are moto's, not the server's: they stay."""
        with self._switching:
            if self.is_running:
                self._server.shutdown()
                self._thread.join()
                self.is_running = False
