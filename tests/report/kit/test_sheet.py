import pytest

from bids_fmmtc.report.kit.figure import finish
from bids_fmmtc.report.kit.sheet import WIDTH, attempt, counted, key_below, plain, room, sheet, short, wrapped


def test_a_sheet_has_the_width_and_the_margins_asked_for():
    with sheet(2.0, left=1.0, bottom=0.5, right=0.5, top=0.25) as c:
        ax = c.subplots()
        ax.plot([0, 1], [0, 1], label="$x_")
        key_below(c, 1)
        box = ax.get_position()
        drawn = finish(c, "x", "title", "text")
    assert (box.x0 * WIDTH, box.y0 * 2) == (pytest.approx(1.0), pytest.approx(0.5))
    assert ((1 - box.x1) * WIDTH, (1 - box.y1) * 2) == (pytest.approx(0.5), pytest.approx(0.25))
    assert "$x_" in drawn.markup


def test_room_grows_with_the_longest_line():
    assert room(["a", "abc\nabcdef"]) == room(["abcdef"]) > room(["abc"])
    assert room([]) > 0


def test_what_fails_becomes_a_line():
    assert attempt("It", lambda x: x + 1, 2) == 3
    said = attempt("The map", lambda: 1 / 0)
    assert said == "The map cannot be shown: ZeroDivisionError (division by zero)."
    assert attempt("It", {}.__getitem__, "a\nb") == "It cannot be shown: KeyError ('a\\nb')."


def test_texts_are_one_printable_line():
    assert short(" a\n\tb\0c ") == "a b\ufffdc"
    assert short("x" * 50, 10) == "x" * 9 + "…"
    assert wrapped("one two three four", 9, 2) == "one two\nthree …"
    assert counted(1, "person", "people") == "1 person"
    assert counted(2, "person", "people") == "2 people"
    assert counted(0, "session") == "0 sessions"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(None, "–"), (float("nan"), "–"), (True, "yes"), (False, "no"), (12345, "12,345"), (-3, "−3")],
        *[(2.0, "2"), (0.123456, "0.1235"), (-0.5, "−0.5"), (1e-9, "1e−09"), (float("inf"), "inf"), ("x-y", "x-y")],
    ],
)
def test_plain_values(value, text):
    assert plain(value) == text
