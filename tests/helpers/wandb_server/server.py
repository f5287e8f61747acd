"""The HTTP server on the loopback, with faults on demand."""

import base64
import gzip
import json
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.helpers.wandb_server.graphql import parse, select
from tests.helpers.wandb_server.records import ENTITY, Run
from tests.helpers.wandb_server.store import Store

KEY = "k" * 40


@dataclass
class Fault:
    """Answer requests whose path matches with `status`; with status None, delay the answer until the fault's end."""

    match: str = "."
    status: int | None = 500
    seconds: float = 3600.0
    count: int = 10**9  # affected requests at most
    start: float = 0.0

    def ends_in(self) -> float:
        """Seconds until the fault's end."""
        return self.start + self.seconds - time.monotonic()


class WandbServer:
    """A W&B server as a context manager; `unknown` lists the requests that it does not know."""

    def __init__(self, keys: tuple[str, ...] = (KEY,)) -> None:
        self.store = Store()
        self.keys = keys
        self.faults: list[Fault] = []
        self.unknown: list[str] = []
        self.lock = threading.Lock()
        self._port = 0

    def start(self) -> "WandbServer":
        """Listen, after a `stop` on the same port as before."""
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._http = _Http(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        self.store.url = self.url
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections."""
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> "WandbServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._port}"

    def environment(self) -> dict[str, str]:
        """Environment variables with which a client logs in."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": ENTITY, "NO_PROXY": "127.0.0.1"}

    def break_down(self, fault: Fault) -> None:
        """Start a fault."""
        fault.start = time.monotonic()
        self.faults.append(fault)

    @property
    def run(self) -> Run:
        """The only run of the server."""
        (run,) = self.store.runs.values()
        return run


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the client uploads many files at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    server_owner: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        server, path, body = self.server_owner, unquote(urlsplit(self.path).path), self._body()
        for fault in server.faults:
            if re.search(fault.match, path) and fault.ends_in() > 0 and fault.count > 0:
                fault.count -= 1
                if fault.status is not None:
                    return self._reply({"errors": [{"message": "a fault"}]}, fault.status)
                time.sleep(fault.ends_in())
        if not path.startswith(("/storage/", "/sdk/otel/")) and self._key() not in server.keys:
            return self._reply({"errors": [{"message": "user is not logged in"}]}, 401)
        try:
            with server.lock:
                content = self._answer(server.store, path, body)
        except Exception as error:  # an unknown request, or a bug of this server: the test must fail
            server.unknown.append(f"{path} {body[:80]!r}: {type(error).__name__} {error}")
            return self._reply({"errors": [{"message": str(error)}]}, 400)
        self._reply(content)

    do_GET = do_POST = do_PUT = handle_request

    def _answer(self, store: Store, path: str, body: bytes) -> Any:
        _, kind, *rest = path.split("/")
        match kind, self.command, rest:
            case "graphql", "POST", []:
                request = json.loads(body)
                name, selection = parse(request["query"])
                return {"data": select(getattr(store, name)(**request.get("variables") or {}), selection)}
            case "files", "POST", [_, project, run, "file_stream"]:
                store.run(project, run).stream(json.loads(body))
                return {}
            case "sdk", "POST", ["otel", *_]:  # the client's own telemetry
                return {}
            case "storage", "PUT", ["run", project, run, *name]:
                store.run(project, run).files["/".join(name)] = body
                return {}
            case "storage", "PUT", ["manifest", number]:
                store.take_manifest(int(number), body)
                return {}
            case "storage", "PUT", ["blob", md5]:
                store.take_blob(md5, body)
                return {}
            case "storage", "GET", ["run", project, run, *name]:
                return store.run(project, run).files["/".join(name)]
            case "storage", "GET", ["manifest", number]:
                return store.manifest(int(number))
            case ("storage", "GET", ["blob", md5]) | ("artifactsV2", "GET", [*_, md5, _]):
                return store.blobs[md5]
        raise LookupError(f"{self.command} {path}")

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _key(self) -> str:
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(credentials).decode().partition(":")[2] if scheme == "Basic" else ""

    def _reply(self, content: Any, status: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
