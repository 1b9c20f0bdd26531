"""Fetching against a real HTTP server on the loopback; no outside network."""

import functools
import hashlib
import io
import json
import os
import pty
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from bids_fmmtc import fetch, resources
from bids_fmmtc.errors import AtlasError, DataError, MissingInputError, OutputError, UsageError, WeightsError

SHARED_ATLAS = Path(__file__).parents[1].parent / "shared" / "data" / "atlas"
IMAGE, TABLE = resources.ATLAS_IMAGE, resources.ATLAS_TABLE
REF = fetch.GITHUB_REFS[0]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG_1400 = json.dumps(fetch.BRAINLM_EXPECTED["checkpoint-1400"]).encode()
CONFIG_13M = json.dumps(fetch.BRAINLM_EXPECTED["old_13M"]).encode()
H5 = fetch.HDF5_SIGNATURE + b"transform"


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


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.files, httpd.cut, httpd.asked, httpd.status = {}, set(), [], 200
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=functools.partial(httpd.serve_forever, poll_interval=0.01))
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def dead_url():
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def atlas(server):
    """A small stand-in for the atlas, served; returns its checksums."""
    content = {IMAGE: b"label image " * 5000, TABLE: b"1 2 3 4\n" * 10}
    for name, data in content.items():
        server.files[f"/{REF}/{fetch.ATLAS_PATH}/{name}"] = data
    return {name: sha(data) for name, data in content.items()}


@pytest.fixture
def checkpoint(server):
    """A small stand-in for checkpoint-1400, served; returns its checksums."""
    weights = b"weights " * 1000
    server.files[f"/{REF}/{fetch.CHECKPOINT_PATH}/config.json"] = CONFIG_1400
    server.files[f"/{REF}/{fetch.CHECKPOINT_PATH}/pytorch_model.bin"] = weights
    return {"pytorch_model.bin": sha(weights)}


def in_cache(cache):
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*")) if cache.exists() else []


def local(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


# --- atlas ---------------------------------------------------------------------------------------------------------


def test_atlas_is_downloaded_checked_and_found(server, atlas, tmp_path):
    cache = tmp_path / "new" / "cache"
    folder = fetch.fetch_atlas(cache, base_url=server.url, checksums=atlas)
    assert folder == cache / "atlas-A424" == resources.find_resource("atlas", [cache])
    assert in_cache(cache) == ["atlas-A424", *sorted(f"atlas-A424/{n}" for n in (IMAGE, TABLE, fetch.RECORD))]
    record = json.loads((folder / fetch.RECORD).read_text())
    assert record["sha256"] == atlas
    assert record["source"] == f"{server.url}/{REF}/{fetch.ATLAS_PATH}"
    assert any("A424%2B2mm" in path for _, path, _ in server.asked)
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in folder.iterdir())


def test_atlas_that_is_there_is_not_downloaded_again(server, atlas, tmp_path):
    fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    server.asked.clear()
    fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert server.asked == []


def test_damaged_atlas_in_the_cache_is_replaced(server, atlas, tmp_path):
    folder = fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    (folder / TABLE).write_bytes(b"damaged")
    fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert sha((folder / TABLE).read_bytes()) == atlas[TABLE]
    assert in_cache(tmp_path)[0] == "atlas-A424"
    assert not list(tmp_path.glob(".fetch-*"))


def test_vanished_commit_falls_back_to_the_branch(server, atlas, tmp_path):
    server.files = {path.replace(f"/{REF}/", "/main/"): data for path, data in server.files.items()}
    folder = fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert "/main/" in json.loads((folder / fetch.RECORD).read_text())["source"]


@pytest.mark.parametrize("name", [IMAGE, TABLE])
def test_tampered_atlas_is_refused_and_the_cache_left_clean(server, atlas, tmp_path, name):
    server.files[f"/{REF}/{fetch.ATLAS_PATH}/{name}"] += b"!"
    with pytest.raises(AtlasError, match=atlas[name]):
        fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert in_cache(tmp_path) == []


def test_interrupted_download_is_temporary_and_leaves_nothing(server, atlas, tmp_path):
    server.cut.add(f"/{REF}/{fetch.ATLAS_PATH}/{IMAGE}")
    with pytest.raises(fetch.DownloadError, match="--from") as caught:
        fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert caught.value.exit_code == 75
    assert in_cache(tmp_path) == []


def test_failed_download_keeps_what_was_there(server, atlas, tmp_path):
    folder = fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    (folder / fetch.RECORD).unlink()  # so that it is fetched again
    server.status = 503
    with pytest.raises(fetch.DownloadError, match="503"):
        fetch.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert resources.find_resource("atlas", [tmp_path]) == folder


def test_file_that_no_ref_has(server, tmp_path):
    with pytest.raises(fetch.DownloadError, match="404"):
        fetch.fetch_atlas(tmp_path, base_url=server.url)
    assert [path.split("/")[1] for _, path, _ in server.asked] == list(fetch.GITHUB_REFS)


def test_atlas_from_a_folder(tmp_path):
    source = local(tmp_path / "usb", **{IMAGE: b"image", TABLE: b"table", "other": b"left behind"})
    sums = {IMAGE: sha(b"image"), TABLE: sha(b"table")}
    folder = fetch.fetch_atlas(tmp_path / "cache", source=source, checksums=sums)
    assert {path.name for path in folder.iterdir()} == {IMAGE, TABLE, fetch.RECORD}
    with pytest.raises(AtlasError, match=f"{TABLE}.*{sha(b'table')}.*expected"):
        fetch.fetch_atlas(tmp_path / "fresh", source=source, checksums={IMAGE: sums[IMAGE], TABLE: "0" * 64})
    assert in_cache(tmp_path / "fresh") == []


def test_atlas_from_a_folder_without_it(tmp_path):
    source = local(tmp_path / "usb", **{IMAGE: b""})
    with pytest.raises(MissingInputError, match="--from"):
        fetch.fetch_atlas(tmp_path / "cache", source=source)
    assert in_cache(tmp_path / "cache") == []


@pytest.mark.skipif(not SHARED_ATLAS.is_dir(), reason="the real A424 atlas is not beside the repository")
def test_real_atlas_has_the_published_checksums(tmp_path, capsys):
    assert fetch.main(["atlas", "--cache", str(tmp_path), "--from", str(SHARED_ATLAS)]) == 0
    assert capsys.readouterr().out.strip() == str(resources.find_resource("atlas", [tmp_path]))


# --- transform -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_transform_from_a_templateflow_archive(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "file" / "not" / "writable"))
    (tmp_path / "file").write_bytes(b"")
    server.files[f"/{resources.TEMPLATE_FOLDER}/{resources.TRANSFORM_FILE}"] = H5
    path = fetch.fetch_transform(tmp_path / "cache", base_url=server.url)
    assert path == resources.find_resource("transform", [tmp_path / "cache"])
    assert path.read_bytes() == H5
    record = json.loads(path.with_name(fetch.RECORD).read_text())
    assert record["sha256"] == {path.name: sha(H5)}
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["transform"]
    assert os.environ["TEMPLATEFLOW_HOME"] == str(tmp_path / "file" / "not" / "writable")

    server.cut.add(f"/{resources.TEMPLATE_FOLDER}/{resources.TRANSFORM_FILE}")
    with pytest.raises(fetch.DownloadError):
        fetch.fetch_transform(tmp_path / "other", base_url=server.url)
    server.status = 500
    with pytest.raises(fetch.DownloadError, match="500"):
        fetch.fetch_transform(tmp_path / "other", base_url=server.url)
    assert in_cache(tmp_path / "other") == []


@pytest.mark.slow
def test_transform_with_the_server_down(dead_url, tmp_path, capsys):
    assert fetch.main(["transform", "--cache", str(tmp_path), "--base-url", dead_url]) == 75
    assert "--from" in capsys.readouterr().err
    assert in_cache(tmp_path) == []


def test_transform_from_a_file(tmp_path, capsys):
    (tmp_path / "any_name.h5").write_bytes(H5)
    argv = ["transform", "--cache", str(tmp_path / "cache"), "--from", str(tmp_path / "any_name.h5")]
    assert fetch.main(argv) == 0
    captured = capsys.readouterr()
    assert Path(captured.out.strip()).read_bytes() == H5
    assert "no checksum is published" in captured.err


@pytest.mark.parametrize(("content", "error"), [(b"<html>log in</html>", DataError), (b"", MissingInputError)])
def test_transform_that_is_none(tmp_path, content, error):
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(error):
        fetch.fetch_transform(tmp_path / "cache", source=tmp_path / "x.h5")
    assert in_cache(tmp_path / "cache") == []


# --- BrainLM -------------------------------------------------------------------------------------------------------


def test_checkpoint_1400_by_http(server, checkpoint, tmp_path):
    folder = fetch.fetch_brainlm(tmp_path, base_url=server.url, checksums=checkpoint)
    assert folder == resources.find_resource("brainlm", [tmp_path])
    accepted = (folder / fetch.LICENCE_FILE).read_text()
    assert "CC BY-NC-ND 4.0" in accepted
    assert "checkpoint-1400" in accepted
    record = json.loads((folder / fetch.RECORD).read_text())
    assert record["sha256"]["pytorch_model.bin"] == checkpoint["pytorch_model.bin"]


def test_checkpoint_1400_with_other_weights_is_refused(server, checkpoint, tmp_path, capsys):
    argv = ["brainlm", "--accept-licence", "--cache", str(tmp_path), "--base-url", server.url]
    assert fetch.main(argv) == 65
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bids_fmmtc-fetch: error: ")
    assert resources.BRAINLM_SHA256["checkpoint-1400"]["pytorch_model.bin"] in last
    assert in_cache(tmp_path) == []


@pytest.mark.parametrize("config", [b"{}", b"[]", b"not json", CONFIG_13M])
def test_config_of_another_model_is_refused(server, checkpoint, tmp_path, config):
    server.files[f"/{REF}/{fetch.CHECKPOINT_PATH}/config.json"] = config
    with pytest.raises(WeightsError, match=r"config\.json"):
        fetch.fetch_brainlm(tmp_path, base_url=server.url, checksums=checkpoint)
    assert in_cache(tmp_path) == []


def test_unknown_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="old_13M"):
        fetch.fetch_brainlm(tmp_path, checkpoint="vitmae_111M")


def test_checkpoint_from_a_folder_prefers_weights_with_a_known_checksum(tmp_path):
    files = {"config.json": CONFIG_1400, "pytorch_model.bin": b"bin", "model.safetensors": b"safe"}
    source = local(tmp_path / "usb", **files)
    folder = fetch.fetch_brainlm(tmp_path / "a", source=source, checksums={"pytorch_model.bin": sha(b"bin")})
    assert (folder / "pytorch_model.bin").exists()
    assert not (folder / "model.safetensors").exists()
    with pytest.raises(WeightsError, match="sha256"):
        fetch.fetch_brainlm(tmp_path / "b", source=source)
    (source / "pytorch_model.bin").unlink()
    (source / "model.safetensors").unlink()
    with pytest.raises(MissingInputError, match="no weights"):
        fetch.fetch_brainlm(tmp_path / "b", source=source)
    assert in_cache(tmp_path / "b") == []


def test_old_13m_from_a_folder_says_that_no_checksum_is_known(tmp_path, capsys):
    source = local(tmp_path / "usb", **{"config.json": CONFIG_13M, "model.safetensors": b"safe"})
    cache = tmp_path / "cache"
    argv = ["brainlm", "--checkpoint", "old_13M", "--accept-licence", "--cache", str(cache), "--from", str(source)]
    assert fetch.main(argv) == 0
    assert "no checksum is known" in capsys.readouterr().err
    folder = resources.find_resource("brainlm", [cache], checkpoint="old_13M")
    assert json.loads((folder / fetch.RECORD).read_text())["sha256"]["model.safetensors"] == sha(b"safe")


def hugging_face(tmp_path, url):
    """Run the program in a process of its own: huggingface_hub reads the environment once, at import."""
    argv = ["brainlm", "--checkpoint", "old_13M", "--accept-licence", "--cache", str(tmp_path / "c"), "--base-url", url]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": "/nowhere", "HF_TOKEN": "hf_not_to_be_sent"}
    command = [sys.executable, "-m", "bids_fmmtc.fetch", *argv]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("weights", resources.BRAINLM_WEIGHTS)
def test_old_13m_from_a_hugging_face_server(server, tmp_path, weights):
    base = f"/{fetch.HUGGING_FACE_REPO}/resolve/main/old_13M"
    server.files = {f"{base}/config.json": CONFIG_13M, f"{base}/{weights}": b"weights" * 99}
    done = hugging_face(tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    folder = resources.find_resource("brainlm", [tmp_path / "c"], checkpoint="old_13M")
    assert done.stdout.strip() == str(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", weights, fetch.RECORD, fetch.LICENCE_FILE}
    assert COMMIT in json.loads((folder / fetch.RECORD).read_text())["source"]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["brainlm-old_13M"]
    assert not any("hf_not_to_be_sent" in str(headers) for _, _, headers in server.asked)


@pytest.mark.slow
def test_hugging_face_without_the_weights_or_down(server, dead_url, tmp_path):
    server.files = {f"/{fetch.HUGGING_FACE_REPO}/resolve/main/old_13M/config.json": CONFIG_13M}
    for url in (server.url, dead_url):
        done = hugging_face(tmp_path, url)
        assert done.returncode == 75, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("bids_fmmtc-fetch: error: could not download")
        assert in_cache(tmp_path / "c") == []


# --- licence -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_licence_is_shown_before_it_is_asked_for():
    out = io.StringIO()
    fetch.confirm_licence(accepted=False, stdin=Terminal("yes\n"), stderr=out)
    assert out.getvalue().index("CC BY-NC-ND 4.0") < out.getvalue().index("yes or no")


@pytest.mark.parametrize("answer", ["no\n", "\n", "", "y\n"])
def test_licence_refused(answer):
    with pytest.raises(UsageError, match="nothing was fetched"):
        fetch.confirm_licence(accepted=False, stdin=Terminal(answer), stderr=io.StringIO())


@pytest.mark.parametrize("stdin", [None, io.StringIO("yes\n")])
def test_licence_without_a_terminal(stdin):
    with pytest.raises(UsageError, match="--accept-licence"):
        fetch.confirm_licence(accepted=False, stdin=stdin, stderr=io.StringIO())
    fetch.confirm_licence(accepted=True, stdin=stdin, stderr=io.StringIO())


def test_licence_not_accepted_fetches_nothing(server, checkpoint, tmp_path):
    command = [sys.executable, "-m", "bids_fmmtc.fetch", "brainlm", "--cache", str(tmp_path), "--base-url", server.url]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    assert "--accept-licence" in done.stderr.splitlines()[-1]
    assert server.asked == []
    assert in_cache(tmp_path) == []


def test_licence_at_a_real_terminal(tmp_path):
    source = local(tmp_path / "usb", **{"config.json": CONFIG_1400, "model.safetensors": b"safe"})
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "bids_fmmtc.fetch", "brainlm"]
    command += ["--cache", str(tmp_path / "c"), "--from", str(source)]
    with subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.write(leader, b"yes\n")
        _, err = process.communicate(timeout=60)
    os.close(leader)
    os.close(follower)
    assert process.returncode == 0, err
    assert (tmp_path / "c" / "brainlm-checkpoint-1400" / fetch.LICENCE_FILE).is_file()


# --- program -------------------------------------------------------------------------------------------------------


def test_server_down_exits_75_with_one_line(dead_url, tmp_path, capsys):
    assert fetch.main(["atlas", "--cache", str(tmp_path), "--base-url", dead_url]) == 75
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert errors[0].startswith("bids_fmmtc-fetch: error: could not download")
    assert "--from" in errors[0]
    assert in_cache(tmp_path) == []


def test_unwritable_cache_exits_73(tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    source = local(tmp_path / "usb", **{IMAGE: b"image", TABLE: b"table"})
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        assert fetch.main(["atlas", "--cache", str(cache), "--from", str(source)]) == 73
        assert "--cache" in capsys.readouterr().err


def test_default_cache_comes_from_the_environment(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.h5").write_bytes(H5)
    argv = ["transform", "--from", str(tmp_path / "x.h5")]
    monkeypatch.delenv("FMMTC_RESOURCES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch.main(argv) == 0
    assert resources.find_resource("transform", resources.resource_dirs(os.environ)) is not None
    monkeypatch.delenv("XDG_CACHE_HOME")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert fetch.main(argv) == 73
    monkeypatch.delenv("HOME")
    assert fetch.main(argv) == 73
    assert "XDG_CACHE_HOME nor HOME is set" in capsys.readouterr().err


def test_full_disk_is_an_output_error(tmp_path):
    def fill(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        fetch._install(tmp_path, "x", fill, {}, DataError, keep=True)
    assert in_cache(tmp_path) == []


def test_folder_that_cannot_be_moved_keeps_the_former(tmp_path):
    target = local(tmp_path / "target", kept=b"former")
    scratch = local(tmp_path / "scratch")
    with pytest.raises(FileNotFoundError):
        fetch._publish(scratch / "new", target)  # there is no such folder
    assert in_cache(target) == ["kept"]


def test_interrupt_leaves_nothing(server, atlas, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_verify", interrupt)
    source = local(tmp_path / "usb", **{IMAGE: b"image", TABLE: b"table"})
    assert fetch.main(["atlas", "--cache", str(tmp_path / "c"), "--from", str(source)]) == 130
    assert in_cache(tmp_path / "c") == []


@pytest.mark.parametrize("argv", [[], ["weights"], ["brainlm", "--checkpoint", "vitmae_111M"], ["atlas", "--nope"]])
def test_usage_errors_exit_64_with_one_line(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        fetch.main(argv)
    assert caught.value.code == 64
    err = capsys.readouterr().err
    assert err.startswith("bids_fmmtc-fetch: error: ")
    assert err.count("\n") == 1


def test_help_is_light_and_hides_nothing_else():
    code = (
        "import sys\nfrom bids_fmmtc import fetch\ntry:\n    fetch.main(['--help'])\nexcept SystemExit as e:\n"
        "    heavy = {'numpy', 'pooch', 'requests', 'templateflow', 'huggingface_hub'} & set(sys.modules)\n"
        "    sys.exit(f'{heavy}' if heavy or e.code else 0)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 10
    assert all(name in done.stdout for name in resources.RESOURCES)


def test_two_at_once_leave_one_whole_folder(tmp_path):
    source = local(tmp_path / "usb", **{IMAGE: b"image" * 9999, TABLE: b"table"})
    sums = {IMAGE: sha(b"image" * 9999), TABLE: sha(b"table")}
    failures = []

    def run():
        try:
            fetch.fetch_atlas(tmp_path / "c", source=source, checksums=sums)
        except OutputError as error:  # one may find the place taken at the very moment of renaming
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) < 4
    assert resources.find_resource("atlas", [tmp_path / "c"]) is not None
    shutil.rmtree(tmp_path / "c")
