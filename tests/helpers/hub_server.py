"""A loopback server that speaks the protocol of the Hugging Face Hub, for the real client: models and data sets.

Uploads are inline for small files and by Git LFS for others; downloads have a commit and an ETag.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "t" * 34
_LFS = (".safetensors", ".png", ".parquet")


@dataclass
class Repository:
    """Files of a repository, and the hash of its commit."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False

    @property
    def commit(self) -> str:
        """The hash of the content."""
        content = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in sorted(self.files.items())})
        return hashlib.sha1(content.encode()).hexdigest()


class HubServer:
    """The server as a context manager: `repositories` by kind and name, as (`models`, `user/name`)."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections."""
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def files(self, name: str, kind: str = "models") -> dict[str, bytes]:
        """The files of a repository."""
        return self.repositories[kind, name].files


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_owner: HubServer

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self) -> None:
        owner, path = self.server_owner, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("GET", r"/api/whoami-v2", lambda _: self._json({"name": "user", "type": "user", "orgs": []})),
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", lambda _: self._json({"errors": [], "warnings": []})),
            ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/[^/]+", self._preupload),
            ("POST", r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._lfs_batch),
            ("PUT", r"/objects/(\w+)", self._put),
            ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/commit/[^/]+", self._commit),
            ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/[^/]+)?", self._info),
            ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)/tree/[^/]+/?(.*)", self._tree),
            ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/[^/]+", self._paths_info),
            ("HEAD|GET", r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ]
        with owner.lock:
            owner.requests.append(f"{self.command} {path}")
            for method, pattern, answer in routes:
                match = re.fullmatch(pattern, path)
                if match and re.fullmatch(method, self.command):
                    if path.startswith("/api") and self.command == "POST" and not self._is_known(path):
                        return self._json({"error": "Invalid username or password."}, 401)
                    return answer(body, *match.groups())
            owner.unknown.append(f"{self.command} {self.path}")
        return self._json({"error": "not known to the loopback server"}, 404)

    def _is_known(self, path: str) -> bool:
        """Whether a request that needs a token has it."""
        return path.endswith("validate-yaml") or "/paths-info/" in path or self._token() == f"Bearer {TOKEN}"

    def _token(self) -> str | None:
        return self.headers.get("Authorization")

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _repository(self, kind: str | None, name: str) -> Repository | None:
        repository = self.server_owner.repositories.get((kind or "models", name))
        if repository is None or (repository.private and self._token() != f"Bearer {TOKEN}"):
            self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def _create(self, body: bytes) -> None:
        request = json.loads(body)
        kind = f"{request.get('type') or 'model'}s"
        name = f"{request.get('organization') or 'user'}/{request['name'].split('/')[-1]}"
        if (kind, name) in self.server_owner.repositories:
            error = {"error": "You already created this model repo", "url": f"{self.server_owner.url}/{name}"}
            return self._json(error, 409)
        self.server_owner.repositories[kind, name] = Repository(
            private=bool(request.get("private")) or request.get("visibility") == "private"
        )
        return self._json({"url": f"{self.server_owner.url}/{name}"})

    def _preupload(self, body: bytes, kind: str, name: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LFS) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _lfs_batch(self, body: bytes, kind: str | None, name: str) -> None:
        objects = []
        for each in json.loads(body)["objects"]:
            entry: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.server_owner.objects:
                entry["actions"] = {"upload": {"href": f"{self.server_owner.url}/objects/{each['oid']}"}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def _put(self, body: bytes, oid: str) -> None:
        is_right = hashlib.sha256(body).hexdigest() == oid
        if is_right:
            self.server_owner.objects[oid] = body
        self._send(b"", 200 if is_right else 400, {})

    def _commit(self, body: bytes, kind: str, name: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.server_owner.objects[value["oid"]]
        url = f"{self.server_owner.url}/{name}/commit/{repository.commit}"
        self._json({"commitUrl": url, "commitOid": repository.commit})

    def _info(self, body: bytes, kind: str, name: str) -> None:
        repository = self._repository(kind, name)
        if repository is not None:
            siblings = [{"rfilename": path} for path in sorted(repository.files)]
            content = {"id": name, "sha": repository.commit, "private": repository.private, "siblings": siblings}
            self._json({**content, "tags": [], "downloads": 0, "likes": 0})

    def _entries(self, repository: Repository) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in sorted(repository.files.items())
        ]

    def _tree(self, body: bytes, kind: str, name: str, folder: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        below = [each for each in self._entries(repository) if each["path"].startswith(f"{folder}/" if folder else "")]
        if parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true":
            return self._json(below)
        start = len(folder) + 1 if folder else 0
        here = [each for each in below if "/" not in each["path"][start:]]
        names = sorted(
            {each["path"][: each["path"].index("/", start)] for each in below if "/" in each["path"][start:]}
        )
        folders = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in names]
        return self._json([*folders, *here])

    def _paths_info(self, body: bytes, kind: str, name: str) -> None:
        repository = self._repository(kind, name)
        if repository is not None:
            asked = parse_qs(body.decode()).get("paths", []) if b"=" in body else json.loads(body)["paths"]
            self._json([entry for entry in self._entries(repository) if entry["path"] in asked])

    def _resolve(self, body: bytes, kind: str | None, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        if revision not in ("main", repository.commit):
            return self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        content = repository.files.get(path)
        headers = {"X-Repo-Commit": repository.commit}
        if content is None:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", **headers})
        headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            begin, end = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
            return self._send(content[begin:end], 206, headers)
        return self._send(content, 200, headers)
