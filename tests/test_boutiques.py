"""The Boutiques descriptor says what the command line says, and a platform can run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

from bids_fmmtc import __version__, cli, errors

DESCRIPTOR = Path(__file__).parents[1] / "boutiques.json"
DATA = json.loads(DESCRIPTOR.read_text(encoding="utf-8"))
INPUTS = {i["id"]: i for i in DATA["inputs"]}
ACTIONS = {a.dest: a for a in cli.build_parser()._actions if a.option_strings and a.dest not in ("help", "version")}
BOSH = Path(sys.executable).parent / "bosh"
pytestmark = pytest.mark.skipif(not BOSH.is_file(), reason="bosh is not installed beside this Python")


def bosh(*words, cwd, **environ):
    path = f"{BOSH.parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "HOME": str(cwd), **environ}
    return subprocess.run(
        [BOSH, *map(str, words)],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )


@pytest.mark.parametrize("options", [[], ["-b"]])
def test_the_descriptor_is_valid(tmp_path, options):
    done = bosh("validate", *options, DESCRIPTOR, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stdout


def test_every_option_is_in_the_descriptor_and_the_other_way_round():
    described = {name: i for name, i in INPUTS.items() if "command-line-flag" in i}
    assert described.keys() == ACTIONS.keys()
    for name, action in ACTIONS.items():
        entry = described[name]
        assert entry["command-line-flag"] in action.option_strings
        assert entry["optional"]
        assert entry.get("value-choices") == (list(action.choices) if action.choices else None)
        assert entry.get("list", False) == (action.nargs == "+")
        assert (entry["type"] == "Flag") == (action.nargs == 0)


def test_version_levels_and_command_line_are_ours():
    assert DATA["tool-version"] == __version__
    assert INPUTS["analysis_level"]["value-choices"] == list(cli.LEVELS)
    assert all(i["value-key"] in DATA["command-line"] for i in DATA["inputs"])


def test_error_codes_are_ours():
    codes = {v for n, v in vars(errors).items() if n.startswith("EXIT_")} - {errors.EXIT_OK}
    assert {e["code"] for e in DATA["error-codes"]} == codes


def invocation(folder, **values):
    path = folder / "invocation.json"
    path.write_text(json.dumps(values))
    return path


def test_a_simulated_invocation_is_a_line_the_parser_reads(tmp_path):
    values = {
        "bids_dir": str(tmp_path), "output_dir_name": "out", "analysis_level": "participant",
        "participant_label": ["01", "02"], "nprocs": 2, "mem": 1.5, "device": "cpu", "dry_run": True,
        "derivatives": ["fp=/d", "/e"],
    }  # fmt: skip
    done = bosh("exec", "simulate", "-i", invocation(tmp_path, **values), DESCRIPTOR, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(x for x in done.stdout.splitlines() if "bids_fmmtc " in x)
    assert line.startswith("mkdir -p out; bids_fmmtc ")
    words = line.split("bids_fmmtc ", 1)[1].split()
    settings = cli.parse(words, {})
    assert settings.bids_dir == tmp_path
    assert settings.participants == ("01", "02")
    assert (settings.nprocs, settings.memory_gb, settings.device, settings.dry_run) == (2, 1.5, "cpu", True)
    assert settings.derivatives == (("fp", Path("/d")), (None, Path("/e")))


@pytest.mark.slow
@pytest.mark.parametrize(("label", "code"), [("01", 0), ("03", 18)])
def test_a_launched_invocation_ends_with_our_code(tmp_path, fmriprep, label, code):
    values = {
        "bids_dir": str(fmriprep), "output_dir_name": str(tmp_path / "out"), "analysis_level": "participant",
        "participant_label": [label], "dry_run": True,
    }  # fmt: skip
    words = ("exec", "launch", "--no-container", DESCRIPTOR, invocation(tmp_path, **values))
    done = bosh(*words, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
