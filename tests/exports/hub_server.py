"""The few calls of Hugging Face that an upload and a download need, kept in memory."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with files by path; it stops with `shutdown`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Calls)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Calls(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _answer(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        if status >= 400:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _any(self) -> None:
        body, path = self._body(), unquote(self.path.partition("?")[0])
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.refuses:
            return self._answer(401, {"error": "no"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            known = self.server.repositories.setdefault(name, {})
            return self._answer(409 if known else 200, {"url": f"{self.server.address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/upload/(\w+)", path):
            self.server.large[found[1]] = body
            return self._answer(200)
        if found := re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(/.*)?", path):
            if found[1] not in self.server.repositories:
                return self._answer(404, {"error": "not found"})
            return self._in(found[1], found[2] or "", body)
        return self._answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = _any

    def _in(self, name: str, call: str, body: bytes) -> None:
        files = self.server.repositories[name]
        if call.startswith("/preupload"):
            asked = [one["path"] for one in json.loads(body)["files"]]
            kinds = [{"path": one, "uploadMode": "lfs" if one.endswith(".safetensors") else "regular"} for one in asked]
            return self._answer(200, {"files": [{**kind, "shouldIgnore": False} for kind in kinds]})
        if call == "/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/upload/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if call.startswith("/commit/"):
            for line in map(json.loads, body.splitlines()):
                self._change(files, line["key"], line["value"])
            url = f"{self.server.address}/{name}/commit/{COMMIT}"
            return self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        if call.startswith("/tree/"):
            return self._answer(200, [self._entry(path, content) for path, content in files.items()])
        if found := re.fullmatch(r"/resolve/[^/]+/(.+)", call):
            if found[1] not in files:
                return self._answer(404)
            about = {"ETag": f'"{_sha(files[found[1]])}"', "X-Repo-Commit": COMMIT}
            return self._answer(200, files[found[1]], about)
        siblings = [{"rfilename": path} for path in files]
        return self._answer(200, {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})

    def _change(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.server.large[value["oid"]]
        elif key == "deletedFile":
            files.pop(value["path"], None)

    @staticmethod
    def _entry(path: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": oid}


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
