"""A Hub on loopback: the routes by which huggingface_hub finds and fetches a model's files."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SHA = "0123456789abcdef0123456789abcdef01234567"


class HubStub:
    """Serves folders as repositories of one revision, ``main``; ``gated`` ones answer 401, or 403
    to a token, as the Hub does for somebody who was not granted access."""

    def __init__(self, repos: dict[str, Path], gated: tuple[str, ...] = ()):
        self.repos = repos
        self.gated = gated
        self.unknown: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                return

            def do_GET(self):
                stub.answer(self)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request) -> None:
        path = request.path.partition("?")[0].strip("/")
        api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if name in self.gated:
            denied = 403 if request.headers.get("Authorization") else 401
            return self._send(request, denied, b"Access is restricted", error="GatedRepo")
        if name not in self.repos:
            return self._send(request, 401, b"Invalid username or password.", error="RepoNotFound")
        if len(rest) > 1 and rest[1] not in ("main", SHA):
            return self._send(request, 404, b"Invalid rev id", error="RevisionNotFound")
        folder = self.repos[name]
        if api and (not rest or rest[0] == "revision"):
            files = [{"rfilename": file.name} for file in folder.iterdir()]
            model = {"id": name, "modelId": name, "sha": SHA, "siblings": files, "tags": []}
            return self._send(request, 200, json.dumps(model).encode())
        if api and rest[0] == "tree":
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": SHA}
                for file in folder.iterdir()
                if len(rest) == 2
            ]
            return self._send(request, 200, json.dumps(entries).encode())
        if not api and rest[0] == "resolve":
            file = folder.joinpath(*rest[2:])
            if not file.is_file():
                return self._send(request, 404, b"Entry not found", error="EntryNotFound")
            return self._send(request, 200, file.read_bytes(), etag=f'"{file.name}"')
        self.unknown.append(path)
        return self._send(request, 404, b"")

    @staticmethod
    def _send(request, status: int, body: bytes, error: str = "", etag: str = "") -> None:
        request.send_response(status)
        headers = {"Content-Length": len(body), "X-Repo-Commit": SHA, "ETag": etag}
        if error:
            headers |= {"X-Error-Code": error, "X-Error-Message": body.decode()}
        for key, value in headers.items():
            if value != "":
                request.send_header(key, str(value))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
