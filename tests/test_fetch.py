"""The program bids_fmmtc-fetch: its command line, what it says, its exit codes and the question of the licence."""

import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import patience
from served import CONFIG_13M, CONFIG_1400, H5, IMAGE, TABLE, in_cache, local, serve_checkpoint, sha

from bids_fmmtc import fetch, resources
from bids_fmmtc.errors import UsageError
from bids_fmmtc.resources import download, install

SHARED_ATLAS = Path(__file__).parents[1].parent / "shared" / "data" / "atlas"


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


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "_verify", interrupt)
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
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=patience(60)
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < patience(10)
    assert all(name in done.stdout for name in resources.RESOURCES)


# --- resources -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED_ATLAS.is_dir(), reason="the real A424 atlas is not beside the repository")
def test_real_atlas_has_the_published_checksums(tmp_path, capsys):
    assert fetch.main(["atlas", "--cache", str(tmp_path), "--from", str(SHARED_ATLAS)]) == 0
    assert capsys.readouterr().out.strip() == str(resources.find_resource("atlas", [tmp_path]))


def test_transform_from_a_file(tmp_path, capsys):
    (tmp_path / "any_name.h5").write_bytes(H5)
    argv = ["transform", "--cache", str(tmp_path / "cache"), "--from", str(tmp_path / "any_name.h5")]
    assert fetch.main(argv) == 0
    captured = capsys.readouterr()
    assert Path(captured.out.strip()).read_bytes() == H5
    assert "no checksum is published" in captured.err


def test_checkpoint_1400_with_other_weights_is_refused(server, tmp_path, capsys):
    serve_checkpoint(server)
    argv = ["brainlm", "--accept-licence", "--cache", str(tmp_path), "--base-url", server.url]
    assert fetch.main(argv) == 65
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bids_fmmtc-fetch: error: ")
    assert resources.BRAINLM_SHA256["checkpoint-1400"]["pytorch_model.bin"] in last
    assert in_cache(tmp_path) == []


def test_old_13m_from_a_folder_says_that_no_checksum_is_known(tmp_path, capsys):
    source = local(tmp_path / "usb", **{"config.json": CONFIG_13M, "model.safetensors": b"safe"})
    cache = tmp_path / "cache"
    argv = ["brainlm", "--checkpoint", "old_13M", "--accept-licence", "--cache", str(cache), "--from", str(source)]
    assert fetch.main(argv) == 0
    assert "no checksum is known" in capsys.readouterr().err
    folder = resources.find_resource("brainlm", [cache], checkpoint="old_13M")
    assert json.loads((folder / install.RECORD).read_text())["sha256"]["model.safetensors"] == sha(b"safe")


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


def test_licence_not_accepted_fetches_nothing(server, tmp_path):
    serve_checkpoint(server)
    command = [sys.executable, "-m", "bids_fmmtc.fetch", "brainlm", "--cache", str(tmp_path), "--base-url", server.url]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=patience(60)
    )
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
        _, err = process.communicate(timeout=patience(60))
    os.close(leader)
    os.close(follower)
    assert process.returncode == 0, err
    assert (tmp_path / "c" / "brainlm-checkpoint-1400" / download.LICENCE_FILE).is_file()
