"""Downloading against a real HTTP server on the loopback, and copying; no outside network."""

import json
import os
import stat
import subprocess
import sys

import pytest
from patience import patience
from served import (
    COMMIT,
    CONFIG_13M,
    CONFIG_1400,
    H5,
    IMAGE,
    REF,
    TABLE,
    in_cache,
    local,
    serve_atlas,
    serve_checkpoint,
    sha,
)

from bids_fmmtc import fetch, resources
from bids_fmmtc.errors import AtlasError, DataError, MissingInputError, UsageError, WeightsError
from bids_fmmtc.resources import download, install


@pytest.fixture
def atlas(server):
    return serve_atlas(server)


@pytest.fixture
def checkpoint(server):
    return serve_checkpoint(server)


# --- atlas ---------------------------------------------------------------------------------------------------------


def test_atlas_is_downloaded_checked_and_found(server, atlas, tmp_path):
    cache = tmp_path / "new" / "cache"
    folder = download.fetch_atlas(cache, base_url=server.url, checksums=atlas)
    assert folder == cache / "atlas-A424" == resources.find_resource("atlas", [cache])
    assert in_cache(cache) == ["atlas-A424", *sorted(f"atlas-A424/{n}" for n in (IMAGE, TABLE, install.RECORD))]
    record = json.loads((folder / install.RECORD).read_text())
    assert record["sha256"] == atlas
    assert record["source"] == f"{server.url}/{REF}/{download.ATLAS_PATH}"
    assert any("A424%2B2mm" in path for _, path, _ in server.asked)
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in folder.iterdir())


def test_atlas_that_is_there_is_not_downloaded_again(server, atlas, tmp_path):
    download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    server.asked.clear()
    download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert server.asked == []


def test_damaged_atlas_in_the_cache_is_replaced(server, atlas, tmp_path):
    folder = download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    (folder / TABLE).write_bytes(b"damaged")
    download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert sha((folder / TABLE).read_bytes()) == atlas[TABLE]
    assert in_cache(tmp_path)[0] == "atlas-A424"
    assert not list(tmp_path.glob(".fetch-*"))


def test_vanished_commit_falls_back_to_the_branch(server, atlas, tmp_path):
    server.files = {path.replace(f"/{REF}/", "/main/"): data for path, data in server.files.items()}
    folder = download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert "/main/" in json.loads((folder / install.RECORD).read_text())["source"]


@pytest.mark.parametrize("name", [IMAGE, TABLE])
def test_tampered_atlas_is_refused_and_the_cache_left_clean(server, atlas, tmp_path, name):
    server.files[f"/{REF}/{download.ATLAS_PATH}/{name}"] += b"!"
    with pytest.raises(AtlasError, match=atlas[name]):
        download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert in_cache(tmp_path) == []


def test_interrupted_download_is_temporary_and_leaves_nothing(server, atlas, tmp_path):
    server.cut.add(f"/{REF}/{download.ATLAS_PATH}/{IMAGE}")
    with pytest.raises(download.DownloadError, match="--from") as caught:
        download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert caught.value.exit_code == 75
    assert in_cache(tmp_path) == []


def test_failed_download_keeps_what_was_there(server, atlas, tmp_path):
    folder = download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    (folder / install.RECORD).unlink()  # so that it is fetched again
    server.status = 503
    with pytest.raises(download.DownloadError, match="503"):
        download.fetch_atlas(tmp_path, base_url=server.url, checksums=atlas)
    assert resources.find_resource("atlas", [tmp_path]) == folder


def test_file_that_no_ref_has(server, tmp_path):
    with pytest.raises(download.DownloadError, match="404"):
        download.fetch_atlas(tmp_path, base_url=server.url)
    assert [path.split("/")[1] for _, path, _ in server.asked] == list(download.GITHUB_REFS)


def test_atlas_from_a_folder(tmp_path):
    source = local(tmp_path / "usb", **{IMAGE: b"image", TABLE: b"table", "other": b"left behind"})
    sums = {IMAGE: sha(b"image"), TABLE: sha(b"table")}
    folder = download.fetch_atlas(tmp_path / "cache", source=source, checksums=sums)
    assert {path.name for path in folder.iterdir()} == {IMAGE, TABLE, install.RECORD}
    with pytest.raises(AtlasError, match=f"{TABLE}.*{sha(b'table')}.*expected"):
        download.fetch_atlas(tmp_path / "fresh", source=source, checksums={IMAGE: sums[IMAGE], TABLE: "0" * 64})
    assert in_cache(tmp_path / "fresh") == []


def test_atlas_from_a_folder_without_it(tmp_path):
    source = local(tmp_path / "usb", **{IMAGE: b""})
    with pytest.raises(MissingInputError, match="--from"):
        download.fetch_atlas(tmp_path / "cache", source=source)
    assert in_cache(tmp_path / "cache") == []


# --- transform -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_transform_from_a_templateflow_archive(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "file" / "not" / "writable"))
    (tmp_path / "file").write_bytes(b"")
    server.files[f"/{resources.TEMPLATE_FOLDER}/{resources.TRANSFORM_FILE}"] = H5
    path = download.fetch_transform(tmp_path / "cache", os.environ, base_url=server.url)
    assert path == resources.find_resource("transform", [tmp_path / "cache"])
    assert path.read_bytes() == H5
    record = json.loads(path.with_name(install.RECORD).read_text())
    assert record["sha256"] == {path.name: sha(H5)}
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["transform"]
    assert os.environ["TEMPLATEFLOW_HOME"] == str(tmp_path / "file" / "not" / "writable")

    server.cut.add(f"/{resources.TEMPLATE_FOLDER}/{resources.TRANSFORM_FILE}")
    with pytest.raises(download.DownloadError):
        download.fetch_transform(tmp_path / "other", os.environ, base_url=server.url)
    server.status = 500
    with pytest.raises(download.DownloadError, match="500"):
        download.fetch_transform(tmp_path / "other", os.environ, base_url=server.url)
    assert in_cache(tmp_path / "other") == []


@pytest.mark.slow
def test_transform_with_the_server_down(dead_url, tmp_path, capsys):
    assert fetch.main(["transform", "--cache", str(tmp_path), "--base-url", dead_url]) == 75
    assert "--from" in capsys.readouterr().err
    assert in_cache(tmp_path) == []


@pytest.mark.parametrize(("content", "error"), [(b"<html>log in</html>", DataError), (b"", MissingInputError)])
def test_transform_that_is_none(tmp_path, content, error):
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(error):
        download.fetch_transform(tmp_path / "cache", os.environ, source=tmp_path / "x.h5")
    assert in_cache(tmp_path / "cache") == []


# --- BrainLM -------------------------------------------------------------------------------------------------------


def test_checkpoint_1400_by_http(server, checkpoint, tmp_path):
    folder = download.fetch_brainlm(tmp_path, os.environ, base_url=server.url, checksums=checkpoint)
    assert folder == resources.find_resource("brainlm", [tmp_path])
    accepted = (folder / download.LICENCE_FILE).read_text()
    assert "CC BY-NC-ND 4.0" in accepted
    assert "checkpoint-1400" in accepted
    record = json.loads((folder / install.RECORD).read_text())
    assert record["sha256"]["pytorch_model.bin"] == checkpoint["pytorch_model.bin"]


@pytest.mark.parametrize("config", [b"{}", b"[]", b"not json", CONFIG_13M])
def test_config_of_another_model_is_refused(server, checkpoint, tmp_path, config):
    server.files[f"/{REF}/{download.CHECKPOINT_PATH}/config.json"] = config
    with pytest.raises(WeightsError, match=r"config\.json"):
        download.fetch_brainlm(tmp_path, os.environ, base_url=server.url, checksums=checkpoint)
    assert in_cache(tmp_path) == []


def test_unknown_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="old_13M"):
        download.fetch_brainlm(tmp_path, os.environ, checkpoint="vitmae_111M")


def test_checkpoint_from_a_folder_prefers_weights_with_a_known_checksum(tmp_path):
    files = {"config.json": CONFIG_1400, "pytorch_model.bin": b"bin", "model.safetensors": b"safe"}
    source = local(tmp_path / "usb", **files)
    folder = download.fetch_brainlm(
        tmp_path / "a", os.environ, source=source, checksums={"pytorch_model.bin": sha(b"bin")}
    )
    assert (folder / "pytorch_model.bin").exists()
    assert not (folder / "model.safetensors").exists()
    with pytest.raises(WeightsError, match="sha256"):
        download.fetch_brainlm(tmp_path / "b", os.environ, source=source)
    (source / "pytorch_model.bin").unlink()
    (source / "model.safetensors").unlink()
    with pytest.raises(MissingInputError, match="no weights"):
        download.fetch_brainlm(tmp_path / "b", os.environ, source=source)
    assert in_cache(tmp_path / "b") == []


def hugging_face(tmp_path, url):
    """Run the program in a process of its own: huggingface_hub reads the environment once, at import."""
    argv = ["brainlm", "--checkpoint", "old_13M", "--accept-licence", "--cache", str(tmp_path / "c"), "--base-url", url]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": "/nowhere", "HF_TOKEN": "hf_not_to_be_sent"}
    command = [sys.executable, "-m", "bids_fmmtc.fetch", *argv]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=patience(300))


@pytest.mark.slow
@pytest.mark.parametrize("weights", resources.BRAINLM_WEIGHTS)
def test_old_13m_from_a_hugging_face_server(server, tmp_path, weights):
    base = f"/{download.HUGGING_FACE_REPO}/resolve/main/old_13M"
    server.files = {f"{base}/config.json": CONFIG_13M, f"{base}/{weights}": b"weights" * 99}
    done = hugging_face(tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    folder = resources.find_resource("brainlm", [tmp_path / "c"], checkpoint="old_13M")
    assert done.stdout.strip() == str(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", weights, install.RECORD, download.LICENCE_FILE}
    assert COMMIT in json.loads((folder / install.RECORD).read_text())["source"]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["brainlm-old_13M"]
    assert not any("hf_not_to_be_sent" in str(headers) for _, _, headers in server.asked)


@pytest.mark.slow
def test_hugging_face_without_the_weights_or_down(server, dead_url, tmp_path):
    server.files = {f"/{download.HUGGING_FACE_REPO}/resolve/main/old_13M/config.json": CONFIG_13M}
    for url in (server.url, dead_url):
        done = hugging_face(tmp_path, url)
        assert done.returncode == 75, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("bids_fmmtc-fetch: error: could not download")
        assert in_cache(tmp_path / "c") == []
