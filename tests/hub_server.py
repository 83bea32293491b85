"""A Hub on this machine: folders, served as the Hugging Face Hub does."""

import hashlib
import http.server
import json
import re
import threading
import urllib.parse


class HubServer(http.server.ThreadingHTTPServer):
    """Serves folders as repositories of one commit each.

    Attributes:
        repos: Dict of folders (`Path`s) by `"models/owner/name"` or
            `"datasets/owner/name"`.
        gated: Set of those of which no file is given.
        asked: List of the files that were asked for.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.gated, self.asked = {}, set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self):
        self.shutdown()
        self.server_close()


def commit_of(name):
    return hashlib.sha1(name.encode()).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        api = re.fullmatch(
            r"/api/(\w+/[^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path
        )
        file = re.fullmatch(
            r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path
        )
        if api:
            self._describe(api[1], api[2], api[3])
        elif file:
            self._send_file((file[1] or "models/") + file[2], file[3], file[4])
        else:
            self._refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def _describe(self, name, kind, revision):
        if not self._is_there(name, revision):
            return
        folder = self.server.repos[name]
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        names = [p.relative_to(folder).as_posix() for p in files]
        if kind == "tree":
            body = [
                {
                    "type": "file",
                    "path": n,
                    "size": p.stat().st_size,
                    "oid": _etag(p),
                }
                for n, p in zip(names, files, strict=True)
            ]
        else:
            body = {
                "id": name.partition("/")[2],
                "sha": commit_of(name),
                "siblings": [{"rfilename": n} for n in names],
            }
        self._send(json.dumps(body).encode(), "application/json")

    def _send_file(self, name, revision, file):
        if name in self.server.gated:
            self._refuse(403, "GatedRepo")
        elif self._is_there(name, revision):
            path = self.server.repos[name] / file
            if self.command == "GET":
                self.server.asked.append(file)
            self._send(path.read_bytes(), ETag=f'"{_etag(path)}"')

    def _is_there(self, name, revision):
        if name not in self.server.repos:
            self._refuse(404, "RepoNotFound")
        elif revision not in (None, "main", commit_of(name)):
            self._refuse(404, "RevisionNotFound")
        else:
            self.commit = commit_of(name)
            return True
        return False

    def _send(self, body, kind="application/octet-stream", **headers):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", self.commit)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def _etag(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()
