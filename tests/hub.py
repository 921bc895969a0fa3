"""Stands in for the hub: as much of its API as pushing a model takes, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories by name.

    Attributes:
        repositories: whether each is private, and its files.
        objects: large files by digest.
        fails_after: how many large files are taken before it breaks down; None for all.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.received = 0
        self.fails_after: int | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *told: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/api/whoami-v2":
            return self._answer({}, 404)
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self._answer({"error": "Invalid username or password."}, 401)
        return self._answer({"name": "me", "type": "user", "orgs": []})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            there = name in self.server.repositories
            self.server.repositories.setdefault(
                name,
                {
                    "private": told.get("visibility", "private" if told.get("private") else "") == "private",
                    "files": {},
                },
            )
            return self._answer({"url": f"{self.server.url}/{name}"}, 409 if there else 200)
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", self.path):
            files = [
                {"path": one["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".png")) else "regular"}
                for one in json.loads(body)["files"]
            ]  # fmt: skip
            return self._answer({"files": files, "commitOid": "0" * 40})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = []
            for one in json.loads(body)["objects"]:
                actions = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}
                known = one["oid"] in self.server.objects
                objects.append({**one, **({} if known else {"actions": actions})})
            return self._answer({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            files = self.server.repositories[match[1]]["files"]
            for line in body.splitlines():
                told = json.loads(line)
                if told["key"] == "file":
                    files[told["value"]["path"]] = base64.b64decode(told["value"]["content"])
                elif told["key"] == "lfsFile":
                    files[told["value"]["path"]] = self.server.objects[told["value"]["oid"]]
            url = f"{self.server.url}/{match[1]}/commit/{'1' * 40}"
            return self._answer({"success": True, "commitOid": "1" * 40, "commitUrl": url})
        return self._answer({}, 404)

    def do_PUT(self) -> None:
        body = self._body()
        if self.server.fails_after is not None and self.server.received >= self.server.fails_after:
            return self._answer({"error": "out of order"}, 400)
        self.server.received += 1
        digest = hashlib.sha256(body).hexdigest()
        assert self.path == f"/lfs/{digest}"
        self.server.objects[digest] = body
        return self._answer({})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, told: Any, status: int = 200) -> None:
        text = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub, for a while."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
