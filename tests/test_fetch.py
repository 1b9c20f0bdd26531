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
from served import COMMIT, CONFIG_13M, CONFIG_1400, H5, IMAGE, TABLE, in_cache, local, serve_checkpoint, sha

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


# --- NeuroSTORM ----------------------------------------------------------------------------------------------------


def training_checkpoint(path, **more):
    """Write what the authors' trainer leaves: a small encoder, its options, decoder and head beside it."""
    import torch
    from neurostorm_parts import SMALL, random_model

    tensors = {f"model.{k}": v for k, v in random_model().state_dict().items()}
    tensors |= {"model.mask_token": torch.zeros(256, 4), "output_head.head.weight": torch.ones(1, 8), **more}
    options = {k: v for k, v in SMALL.to_json().items() if k not in ("model_type", "in_chans")}
    torch.save({"state_dict": tensors, "hyper_parameters": options}, path)
    return path


def loads(folder):
    """Load a converted folder as a run does, and compare it with what went in."""
    import torch
    from neurostorm_parts import random_model

    from bids_fmmtc.modalities.neurostorm_weights import load_neurostorm

    state = load_neurostorm(folder).state_dict()
    return all(torch.equal(v, state[k]) for k, v in random_model().state_dict().items())


@pytest.mark.parametrize("to", [False, True])
def test_a_checkpoint_is_converted_and_what_is_left_out_is_named(tmp_path, capsys, to):
    source = training_checkpoint(tmp_path / "task.ckpt", **{"model.layers.0.blocks.0.prompt": _zeros(1, 5, 4)})
    where = ["--to", str(tmp_path / "a" / "b")] if to else ["--cache", str(tmp_path / "cache")]
    assert fetch.main(["neurostorm", "--convert", str(source), *where]) == 0
    told = capsys.readouterr()
    folder = Path(told.out.strip())
    assert folder == (tmp_path / "a" / "b" if to else tmp_path / "cache" / "neurostorm-task")
    assert "MIT" in told.err
    assert "left out: 1 of decoder, 1 of heads, 1 of prompts" in told.err
    assert "tuned by prompts" in told.err
    conversion = json.loads((folder / "conversion.json").read_text())
    assert conversion["left_out"] == {
        "decoder": ["window_mask_token"],
        "heads": ["head.weight"],
        "prompts": ["layers.0.blocks.0.prompt"],
        "ignored": [],
    }
    assert (conversion["checkpoint"], conversion["sha256"]) == ("task.ckpt", sha(source.read_bytes()))
    record = json.loads((folder / install.RECORD).read_text())
    assert record["source"] == str(source)
    assert record["sha256"]["model.safetensors"] == sha((folder / "model.safetensors").read_bytes())
    assert "MIT" in (folder / download.NEUROSTORM_LICENCE_FILE).read_text()
    assert loads(folder)


def _zeros(*shape):
    import torch

    return torch.zeros(shape)


def test_converting_twice_gives_the_same_weights(tmp_path):
    source = training_checkpoint(tmp_path / "x.ckpt")
    found = []
    for _ in range(2):
        assert fetch.main(["neurostorm", "--convert", str(source), "--to", str(tmp_path / "to")]) == 0
        found.append([(tmp_path / "to" / n).read_bytes() for n in ("model.safetensors", "config.json")])
    assert found[0] == found[1]


def test_a_file_that_is_no_checkpoint_leaves_nothing(tmp_path, capsys):
    (tmp_path / "x.ckpt").write_bytes(b"no")
    assert fetch.main(["neurostorm", "--convert", str(tmp_path / "x.ckpt"), "--cache", str(tmp_path / "c")]) == 65
    assert fetch.main(["neurostorm", "--convert", str(tmp_path / "no.ckpt"), "--cache", str(tmp_path / "c")]) == 66
    first, second = (e for e in capsys.readouterr().err.splitlines() if "error:" in e)
    assert "x.ckpt cannot be read" in first
    assert "no.ckpt does not exist" in second
    assert in_cache(tmp_path / "c") == []


def test_a_folder_of_somebody_else_s_is_not_replaced(tmp_path, capsys):
    source = training_checkpoint(tmp_path / "x.ckpt")
    mine = local(tmp_path / "mine", **{"thesis.txt": b"years"})
    assert fetch.main(["neurostorm", "--convert", str(source), "--to", str(mine)]) == 73
    assert "was not made by bids_fmmtc-fetch" in capsys.readouterr().err
    assert fetch.main(["neurostorm", "--convert", str(source), "--to", str(source)]) == 73
    assert in_cache(mine) == ["thesis.txt"]
    (mine / "thesis.txt").unlink()
    assert fetch.main(["neurostorm", "--convert", str(source), "--to", str(mine)]) == 0
    assert loads(mine)


@pytest.mark.slow
def test_the_published_encoder_from_a_hugging_face_server(server, tmp_path):
    name = f"{resources.NEUROSTORM_CHECKPOINT}.ckpt"
    content = training_checkpoint(tmp_path / "x.ckpt").read_bytes()
    server.files = {f"/{download.NEUROSTORM_REPO}/resolve/main/{download.NEUROSTORM_PATH}/{name}": content}
    command = [sys.executable, "-m", "bids_fmmtc.fetch", "neurostorm", "--cache", str(tmp_path / "c")]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": "/nowhere", "HF_TOKEN": "hf_not_to_be_sent"}

    def run(url):
        words = [*command, "--base-url", url]
        return subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=patience(300))

    done = run(server.url)
    assert done.returncode == 0, done.stderr
    folder = resources.find_resource("neurostorm", [tmp_path / "c"])
    assert done.stdout.strip() == str(folder)
    assert loads(folder)
    record = json.loads((folder / install.RECORD).read_text())
    assert (
        record["source"] == f"{server.url}/{download.NEUROSTORM_REPO}/tree/{COMMIT}/{download.NEUROSTORM_PATH}/{name}"
    )
    assert [path.name for path in (tmp_path / "c").iterdir()] == [folder.name]
    assert not any("hf_not_to_be_sent" in str(headers) for _, _, headers in server.asked)
    (folder / install.RECORD).write_text("{}")  # not intact any more, so that it is fetched again
    server.files = {}
    done = run(server.url)
    assert done.returncode == 75, done.stderr
    assert "--convert" in done.stderr.splitlines()[-1]
    assert loads(folder)
