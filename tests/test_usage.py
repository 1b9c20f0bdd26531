"""A wrong command line in one line; options that mean nothing at a level."""

import argparse
from pathlib import Path

import pytest

from bids_fmmtc import cli
from bids_fmmtc.errors import UsageError
from bids_fmmtc.group_options import add_group_options
from bids_fmmtc.usage import UsageParser

BASE = ["/in", "/out", "participant"]


def test_a_parser_spells_options_its_own_way():
    parser = UsageParser(prog="x")
    parser.add_argument("--a-b", nargs="+")
    parser.add_argument("-w")
    words, given = parser.spelt(["--a_b", "c_d", "-w/e_f", "--a_b=g_h", "--", "--i_j"])
    assert words == ["--a-b", "c_d", "-w/e_f", "--a-b=g_h", "--", "--i_j"]
    assert given == {"a_b": "--a-b", "w": "-w"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*BASE, "--nonsense-of-all"], "unknown option --nonsense-of-all. See --help."),
        ([*BASE, "--partcipant-label", "01"], "unknown option --partcipant-label; the nearest is --participant-label."),
        (
            [*BASE, "--participant_labels=01"],
            "unknown option --participant_labels; the nearest is --participant-label.",
        ),
        (["--verison"], "unknown option --verison; the nearest is --version."),
        ([*BASE, "-x"], "unknown option -x"),
        ([*BASE, "--mem-mb", "8000"], "the nearest is --mem-gb."),
        ([*BASE, "--wq"], "unknown option --wq"),
        (
            [*BASE, "--nprocs", "0"],
            "argument --nprocs/--n-cpus/--n-procs/--nthreads: 0 is not a positive whole number.",
        ),
        ([*BASE, "--device", "gpu"], "argument --device: invalid choice: 'gpu'"),
        (BASE[:2], "the following arguments are required: analysis_level."),
    ],
)
def test_a_usage_error_is_one_line_with_the_nearest_option(words, says, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(words, {})
    assert caught.value.code == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert line.endswith(" See --help.")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*BASE, "--outcome", "y"], "for the group level only: --outcome."),
        ([*BASE, "--folds=5"], "for the group level only: --folds."),
        ([*BASE, "--cost_scan", "5", "--explain", "01"], "for the group level only: --explain, --cost-scan."),
        ([*BASE[:2], "group", "--model", "m"], "for the participant level only: --model."),
        ([*BASE[:2], "group", "--atlas", "a", "--space", "b"], "or with --timeseries: --space, --atlas."),
    ],
)
def test_an_option_that_means_nothing_at_this_level_is_refused(words, says, capsys):
    assert cli.main(words) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert line.endswith(" See --help.")


def test_every_group_option_is_refused_at_the_participant_level():
    group = argparse.ArgumentParser(add_help=False)
    add_group_options(group)
    for action in group._actions:
        value = [] if action.nargs == 0 else [action.choices[0] if action.choices else "1"]
        words = [*BASE, action.option_strings[0], *value]
        if action.dest == "external":
            words[-1] = "a=/b:c"
        elif action.type is not None and words[-1] == "1":
            words[-1] = "0.5" if action.dest in ("error_rate", "power", "alpha", "control_rate", "dropout") else "3"
        with pytest.raises(UsageError, match=f"for the group level only: {action.option_strings[0]}"):
            cli.parse(words, {})


def test_series_that_the_group_level_imports_have_an_atlas_and_a_recipe():
    settings = cli.parse([*BASE[:2], "group", "--timeseries", "/t", "--atlas", "a", "--recipe", "r.json"], {})
    assert (settings.atlas, settings.recipe_file) == ("a", Path("r.json"))


def test_words_after_the_bar_and_values_below_zero_are_no_options():
    settings = cli.parse(["--outcome", "y", "--missing-code", "-99", "-.5", "--", "--in", "o_p", "group"], {})
    assert settings.bids_dir.name == "--in"
    assert settings.group.missing_codes == ("-99", "-.5")
