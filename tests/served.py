"""A real HTTP server on the loopback with small stand-ins, for the tests of fetching; no outside network."""

import functools
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from bids_fmmtc import resources
from bids_fmmtc.resources import download

IMAGE, TABLE = resources.ATLAS_IMAGE, resources.ATLAS_TABLE
REF = download.GITHUB_REFS[0]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG_1400 = json.dumps(download.BRAINLM_EXPECTED["checkpoint-1400"]).encode()
CONFIG_13M = json.dumps(download.BRAINLM_EXPECTED["old_13M"]).encode()
H5 = download.HDF5_SIGNATURE + b"transform"


def sha(content):
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files`` (path -> bytes); ``server.cut`` paths promise all and send half."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path = unquote(self.path)
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        if self.server.status != 200 or path not in self.server.files:
            self.send_response(self.server.status if self.server.status != 200 else 404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{sha(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if path in self.server.cut else content)

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    """Run a server with nothing to serve yet until the end of the block."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.files, httpd.cut, httpd.asked, httpd.status = {}, set(), [], 200
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=functools.partial(httpd.serve_forever, poll_interval=0.01))
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def serve_atlas(server):
    """Serve a small stand-in for the atlas; returns its checksums."""
    content = {IMAGE: b"label image " * 5000, TABLE: b"1 2 3 4\n" * 10}
    for name, data in content.items():
        server.files[f"/{REF}/{download.ATLAS_PATH}/{name}"] = data
    return {name: sha(data) for name, data in content.items()}


def serve_checkpoint(server):
    """Serve a small stand-in for checkpoint-1400; returns its checksums."""
    weights = b"weights " * 1000
    server.files[f"/{REF}/{download.CHECKPOINT_PATH}/config.json"] = CONFIG_1400
    server.files[f"/{REF}/{download.CHECKPOINT_PATH}/pytorch_model.bin"] = weights
    return {"pytorch_model.bin": sha(weights)}


def in_cache(cache):
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*")) if cache.exists() else []


def local(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder
