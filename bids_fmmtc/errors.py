"""Every error the program raises on purpose, and the exit code each leads to.

A message says what was wrong, what was found, what was expected; ``hint`` says what to do. Errors are raised
deep and caught once: for a recording in ``participant``, for the whole run in ``cli``. Exit codes follow the
draft BIDS execution specification (bids-standard/execution-spec, ``outputs.md``).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_INVALID_INPUT = 16
EXIT_UNKNOWN_LEVEL = 17
EXIT_NOTHING_SELECTED = 18
EXIT_USAGE = 64
EXIT_BAD_DATA = 65
EXIT_NO_INPUT = 66
EXIT_SOFTWARE = 70
EXIT_CANNOT_CREATE = 73
EXIT_IO = 74
EXIT_TEMPORARY = 75


def printable(text: str) -> str:
    r"""Return text without control characters: ``\x1b`` and the like instead, which no terminal obeys.

    Names of files, columns and classes are somebody else's; printed as they are, they could move the cursor, turn the
    direction of writing or break a line of a table.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class FmmtcError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message
        What is wrong, what was found, what was expected; one line.
    hint
        What the user can do about it; one line.
    """

    exit_code = EXIT_FAILURE
    kind = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(FmmtcError, ValueError):
    """The command line contradicts itself or holds a value that no option accepts."""

    exit_code = EXIT_USAGE
    kind = "usage"


class InputError(FmmtcError, ValueError):
    """The input dataset is not one the program can read."""

    exit_code = EXIT_INVALID_INPUT
    kind = "input"


class SelectionError(FmmtcError, LookupError):
    """The labels or filters select nothing."""

    exit_code = EXIT_NOTHING_SELECTED
    kind = "selection"


class MissingInputError(FmmtcError, FileNotFoundError):
    """A file or folder that was named, or that is needed, is not there."""

    exit_code = EXIT_NO_INPUT
    kind = "missing"


class DataError(FmmtcError, ValueError):
    """A file is there but its content cannot be used."""

    exit_code = EXIT_BAD_DATA
    kind = "data"


class UnreadableError(DataError):
    """A text file from outside is absent, no regular file, too large, too deep, or not what its name says."""

    kind = "unreadable"


class ImageError(DataError):
    """A NIfTI image is truncated, corrupt or of an unusable shape or type."""

    kind = "image"


class SpaceError(DataError):
    """A recording lies in a space to which the atlas cannot be brought."""

    kind = "space"


class CoverageError(DataError):
    """Too few parcels hold signal: a wrong affine, a wrong mask or a very small field of view."""

    kind = "coverage"


class ConfoundsError(DataError):
    """Confounds are absent, incomplete or do not fit the recording."""

    kind = "confounds"


class ShortRecordingError(DataError):
    """A recording holds fewer usable frames than one window."""

    kind = "short"


class RepetitionTimeError(DataError):
    """The repetition time is unknown, implausible, or differs between runs that are to be pooled."""

    kind = "repetition-time"


class AtlasError(DataError):
    """An atlas folder is incomplete or contradicts itself, or is not the atlas that the recipe names."""

    kind = "atlas"


class RecipeError(DataError):
    """A recipe holds an unknown field, a value out of range, or differs from the one already in use."""

    kind = "recipe"


class WeightsError(DataError):
    """Encoder weights do not match the architecture or the expected checksum."""

    kind = "weights"


class BundleError(DataError):
    """A model bundle is tampered with, truncated, incomplete, or not a bundle."""

    kind = "bundle"


class OutputError(FmmtcError, OSError):
    """The output or work folder cannot be created or written."""

    exit_code = EXIT_CANNOT_CREATE
    kind = "output"


class BusyError(FmmtcError):
    """Another run is at work on the same results; the same command may succeed later."""

    exit_code = EXIT_TEMPORARY
    kind = "busy"
