"""The Boutiques descriptor says what the command line says, and a platform can run it."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import patience

from bids_fmmtc import __version__, cli, errors
from bids_fmmtc.group_options import add_group_options
from bids_fmmtc.recipes import TABLE

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


def test_the_descriptor_is_valid(tmp_path):
    """Not ``-b``: that wants two inputs of one value key, of which the first that is not given empties the other's."""
    done = bosh("validate", DESCRIPTOR, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stdout


def test_every_option_is_in_the_descriptor_and_the_other_way_round():
    described = {name: i for name, i in INPUTS.items() if "command-line-flag" in i}
    # An option that takes a name or a file is two inputs: a platform mounts files.
    named = described.pop("recipe_name")
    assert (named["command-line-flag"], named["value-choices"]) == ("--recipe", list(TABLE))
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
    keys = [i["value-key"] for i in DATA["inputs"]]
    assert len(set(keys)) == len(keys)
    assert re.findall(r"\[[A-Z_]+\]", DATA["command-line"].split("bids_fmmtc ")[1]) == sorted(keys, key=_place)


def _place(key):
    """Where a key stands in the command line; everything else is behind what is needed."""
    return DATA["command-line"].rindex(key)


def test_error_codes_are_ours():
    codes = {v for n, v in vars(errors).items() if n.startswith("EXIT_")} - {errors.EXIT_OK}
    assert {e["code"] for e in DATA["error-codes"]} == codes


def invocation(folder, **values):
    path = folder / "invocation.json"
    path.write_text(json.dumps(values))
    return path


# Values that are not simply of their type, and what an input needs beside it.
VALUES = {
    "external": ["a=/b c:VAS 4", "d=/e:y"], "derivatives": ["fp=/d 1", "/e"], "responder_if": ">=30",
    "analysis_label": "a_b", "currency": "it's $5", "explain": ["01", "02"], "missing_code": ["-99", "not done"],
    "non_responder": ["partial", "0"],
}  # fmt: skip
NEED_OUTCOME = ("responder_if", "arm_column", "site_column", "covariates", "family_column", "external", "explain",
                "explain_volumes", "reference_protocol", "missing_code")  # fmt: skip
BESIDE = {
    "repetition_time": {"timeseries": "/series"},
    **{name: {"outcome": "y"} for name in NEED_OUTCOME},
    "non_responder": {"outcome": "y", "responder_if": "==full"},
    "arm": {"outcome": "y", "arm_column": "a"}, "control_arm": {"outcome": "y", "arm_column": "a"},
    "adapt": {"outcome": "y", "external": ["a=/b:c"]}, "leave_one_site_out": {"outcome": "y", "site_column": "s"},
    "cost_scan": {"cost_patient": 5}, "cost_patient": {"cost_scan": 5},
}  # fmt: skip
OPTIONS = sorted([*ACTIONS, "recipe_name"])
OUTPUTS = ("output_dir", "output_dir_name")


def value_of(name):
    """A value as an invocation gives it, with what a shell would mangle where it can be."""
    entry = INPUTS[name]
    if name in VALUES:
        return VALUES[name]
    if "value-choices" in entry:
        return entry["value-choices"][-1]
    if entry["type"] == "Flag":
        return True
    if entry["type"] == "Number":
        low = entry.get("minimum", 0)
        number = low + 2 if entry.get("integer") else min(low + 0.5, (low + entry.get("maximum", 1.0)) / 2)
        return number if name != "alpha" else 0.01
    text = "/in/a folder/x.json" if entry["type"] == "File" else "$a 'b'; c"
    return [text, "d"] if entry.get("list") else text


def command_of(tmp_path, values):
    """The command that boutiques makes of an invocation, which it has checked against the descriptor."""
    from boutiques.bosh import invocation as check
    from boutiques.localExec import LocalExecutor

    path = invocation(tmp_path, **values)
    check(str(DESCRIPTOR), "-i", str(path))
    options = {"forcePathType": True, "skipDataCollect": True, "requireComplete": True, "sandbox": False}
    made = LocalExecutor(str(DESCRIPTOR), str(path), options)
    (line,) = made.cmd_line
    return line, made.out_dict["results"]


def level_of(name):
    group = argparse.ArgumentParser(add_help=False)
    add_group_options(group)
    return "group" if name in {action.dest for action in group._actions} else "participant"


def as_typed(values):
    """The words that a user would type for the options of an invocation."""
    words = []
    for name, value in values.items():
        given = value if isinstance(value, list) else [] if value is True else [value]
        words += [INPUTS[name]["command-line-flag"], *map(str, given)]
    return words


def holds(tmp_path, output, level, options):
    """An invocation with these options becomes the settings that the same options typed by hand become."""
    places = {"bids_dir": "/in/my data", output: "/out/a b", "analysis_level": level}
    line, results = command_of(tmp_path, {**places, **options})
    assert results == "/out/a b"
    made, _, rest = line.partition("; bids_fmmtc ")
    assert shlex.split(made) == ["mkdir", "-p", "/out/a b"]
    typed = ["/in/my data", "/out/a b", level, *as_typed(options)]
    found, expected = (cli.parse(words, {}) for words in (shlex.split(rest), typed))
    assert replace(found, command="") == replace(expected, command="")
    return expected


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", OPTIONS)
def test_each_input_alone_arrives_in_the_command(tmp_path, name, output):
    alone = {} if name in ("cost_scan", "cost_patient") else BESIDE.get(name, {})  # neither of them without the other
    plain = cli.parse(["/in/my data", "/out/a b", level_of(name), *as_typed(alone)], {})
    found = holds(tmp_path, output, level_of(name), {**BESIDE.get(name, {}), name: value_of(name)})
    accepted = ("notrack", "skip_bids_validation")  # and nothing more
    assert (replace(found, command="") == replace(plain, command="")) == (name in accepted)


@pytest.mark.parametrize("output", OUTPUTS)
@given(chosen=st.sets(st.sampled_from(OPTIONS), min_size=2, max_size=12), level=st.sampled_from(list(cli.LEVELS)))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_several_inputs_together_arrive_in_the_command(tmp_path, output, chosen, level):
    options = {}
    for name in sorted(name for name in chosen if level_of(name) == level):
        options |= BESIDE.get(name, {}) | {name: value_of(name)}
    against = {"control_rate": "control_arm", "no_explanation": "explain", "timeseries": "derivatives",
               "recipe": "recipe_name"}  # fmt: skip
    for one, other in against.items():
        if one in options:
            options.pop(other, None)
    if "timeseries" in options:
        for name in ("space", "bids_filter_file", "bids_database_dir", "on_space_mismatch"):
            options.pop(name, None)
    holds(tmp_path, output, level, options)


def test_one_output_folder_is_needed_and_no_more(tmp_path):
    for outputs in ({}, dict.fromkeys(OUTPUTS, "out")):
        path = invocation(tmp_path, bids_dir="/in", analysis_level="group", **outputs)
        assert bosh("exec", "simulate", "-i", path, DESCRIPTOR, cwd=tmp_path).returncode != 0


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
    made = cli.parse(words, {})
    assert made.bids_dir == tmp_path
    assert made.participants == ("01", "02")
    assert (made.nprocs, made.memory_gb, made.device, made.dry_run) == (2, 1.5, "cpu", True)
    assert made.derivatives == (("fp", Path("/d")), (None, Path("/e")))


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
