"""The error family: codes of the execution specification, kinds, messages."""

import pickle

import pytest

from bids_fmmtc import cli, errors
from bids_fmmtc.errors import FmmtcError

CODES = {
    "FmmtcError": 1,
    "UsageError": 64,
    "InputError": 16,
    "SelectionError": 18,
    "MissingInputError": 66,
    "DataError": 65,
    "UnreadableError": 65,
    "ImageError": 65,
    "SpaceError": 65,
    "CoverageError": 65,
    "ConfoundsError": 65,
    "ShortRecordingError": 65,
    "RepetitionTimeError": 65,
    "AtlasError": 65,
    "RecipeError": 65,
    "WeightsError": 65,
    "BundleError": 65,
    "OutputError": 73,
    "BusyError": 75,
}
FAMILY = {n: e for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, FmmtcError)}
EXIT_CODES = {n: v for n, v in vars(errors).items() if n.startswith("EXIT_")}


def test_every_error_has_the_code_of_the_specification():
    assert {name: error.exit_code for name, error in FAMILY.items()} == CODES
    assert set(CODES.values()) <= set(EXIT_CODES.values())
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def test_kinds_tell_errors_apart():
    kinds = [error.kind for error in FAMILY.values()]
    assert len(set(kinds)) == len(kinds)
    assert all(kind.replace("-", "").isalpha() and kind == kind.lower() for kind in kinds)


@pytest.mark.parametrize("error", FAMILY.values(), ids=FAMILY)
def test_an_error_keeps_message_and_hint_apart(error):
    """Some inherit OSError, which reads two arguments as number and text."""
    both, alone = error("it broke.", "Mend it."), error("it broke.")
    assert (both.message, both.hint, str(both)) == ("it broke.", "Mend it.", "it broke. Mend it.")
    assert (alone.hint, str(alone)) == ("", "it broke.")
    assert error.__doc__


@pytest.mark.parametrize("error", FAMILY.values(), ids=FAMILY)
def test_an_error_survives_the_way_from_a_worker(error):
    again = pickle.loads(pickle.dumps(error("it broke.", "Mend it.")))
    assert (type(again), str(again), again.hint) == (error, "it broke. Mend it.", "Mend it.")


def test_errors_are_caught_as_their_nearest_builtin():
    for name, builtin in (
        ("UsageError", ValueError),
        ("DataError", ValueError),
        ("SelectionError", LookupError),
        ("MissingInputError", FileNotFoundError),
        ("OutputError", OSError),
    ):
        assert issubclass(FAMILY[name], builtin)


def test_help_names_every_code():
    text = " ".join(cli.build_parser().format_help().split())
    assert all(f" {code} " in text for code in EXIT_CODES.values())


def test_names_from_outside_are_printed_without_control_characters():
    error = FmmtcError("column 'a\x1b[2Jb\u202e' of\nx.", "Rename\x07 it.")
    assert str(error) == "column 'a\\x1b[2Jb\\u202e' of\\nx. Rename\\x07 it."
    assert errors.printable("Größe 脳 – é") == "Größe 脳 – é"
