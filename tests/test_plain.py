"""Values to JSON and back: any value returns whole, and what does not fit is named in one line."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import BundleError, DataError
from bids_fmmtc.plain import Strictness, from_json, to_json, unwritten


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    share: float
    path: Path | None = None


@dataclass(frozen=True)
class Value:
    name: str
    count: int = 0
    yes: bool = False
    share: float | None = None
    kind: Literal["a", "b", 1] = "a"
    colour: Colour = Colour.RED
    either: int | str | None = None
    pair: tuple[str, int] = ("", 0)
    many: tuple[Inner, ...] = ()
    floats: tuple[float, ...] = ()
    listed: list[int] = field(default_factory=list)
    paths: Mapping[str, Path] = field(default_factory=dict)
    inner: Mapping[str, Inner] = field(default_factory=dict)
    free: Any = None
    later: str = unwritten("as before")

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"a count is at least 0, found {self.count}")


finite = st.floats(allow_nan=False, allow_infinity=False)
paths = st.text("ab/é ", min_size=1).map(lambda text: Path("/") / text)
free = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
inners = st.builds(Inner, finite, st.none() | paths)
values = st.builds(
    Value,
    name=st.text(),
    count=st.integers(0),
    yes=st.booleans(),
    share=st.none() | finite | st.integers(-9, 9),
    kind=st.sampled_from(["a", "b", 1]),
    colour=st.sampled_from(Colour),
    either=st.none() | st.integers() | st.text(),
    pair=st.tuples(st.text(), st.integers()),
    many=st.lists(inners, max_size=3).map(tuple),
    floats=st.lists(finite, max_size=3).map(tuple),
    listed=st.lists(st.integers(), max_size=3),
    paths=st.dictionaries(st.text(), paths, max_size=3),
    inner=st.dictionaries(st.text(), inners, max_size=2),
    free=free,
    later=st.sampled_from(["as before", "otherwise"]),
)


@settings(max_examples=100)
@given(values)
def test_a_value_comes_back_from_json(value):
    text = json.dumps(to_json(value), allow_nan=False)
    again = from_json(Value, json.loads(text), "value")
    assert again == value
    assert json.dumps(to_json(again), allow_nan=False) == text
    assert from_json(Value, to_json(value, whole=True), "value") == value


@given(values)
def test_a_field_that_came_later_is_written_only_where_it_says_something(value):
    assert ("later" in to_json(value)) == (value.later != "as before")
    assert to_json(value, whole=True)["later"] == value.later


@pytest.mark.parametrize("pair", [(2, 2.0), (0.0, -0.0), (np.float64(2), 2)])
def test_equal_numbers_are_written_alike(pair):
    one, other = (json.dumps(to_json(Value("x", share=number, many=(Inner(number),)))) for number in pair)
    assert one == other


@pytest.mark.parametrize("number", [np.int64(3), np.float32(0.5), np.bool_(True)])
def test_numbers_of_numpy_become_plain_ones(number):
    (found,) = to_json({"a": (number,)})["a"]
    assert type(found) in {int, float, bool}
    assert found == number


def test_arrays_become_lists():
    assert to_json({"a": np.array([[1, 2]])}) == {"a": [[1, 2]]}


def test_fields_stand_in_their_order():
    assert list(to_json(Inner(1.0, Path("/a")))) == ["share", "path"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "value: expected an object, found null."),
        ({}, "value: field name is missing."),
        ({"name": 1}, "value.name: expected str, found 1."),
        ({"name": "x", "count": True}, "value.count: expected int, found true."),
        ({"name": "x", "count": 1.5}, "value.count: expected int, found 1.5."),
        ({"name": "x", "share": True}, "value.share: expected float, found true."),
        ({"name": "x", "share": float("inf")}, "value.share: holds a number that is not finite."),
        ({"name": "x", "count": -1}, "value: a count is at least 0, found -1."),
        ({"name": "x", "kind": True}, "value.kind: true is none of a, b, 1."),
        ({"name": "x", "colour": "green"}, 'value.colour: "green" is none of red, blue.'),
        ({"name": "x", "either": 1.5}, "value.either: expected str, found 1.5."),
        ({"name": "x", "pair": ["a"]}, "value.pair: expected 2 values, found 1."),
        ({"name": "x", "pair": "a1"}, 'value.pair: expected a list, found "a1".'),
        ({"name": "x", "many": [{"share": 1}, {}]}, "value.many[1]: field share is missing."),
        ({"name": "x", "many": [{"share": 1, "path": 3}]}, "value.many[0].path: expected Path, found 3."),
        ({"name": "x", "paths": {"a": None}}, "value.paths.a: expected Path, found null."),
        ({"name": "x", "paths": []}, "value.paths: expected an object, found []."),
        ({"name": "x", "inner": {"k": {"share": "1"}}}, 'value.inner.k.share: expected float, found "1".'),
        ({"name": "x", "free": [{"a": float("nan")}]}, "value.free: holds a number that is not finite."),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(data, message):
    with pytest.raises(DataError) as caught:
        from_json(Value, data, "value")
    assert str(caught.value) == message


def test_an_unknown_field_is_refused_or_dropped_and_told():
    data = {"name": "x", "colr": "red", "many": [{"share": 1, "pth": None}]}
    with pytest.raises(DataError, match=r"^value: unknown field colr; known are name, count, "):
        from_json(Value, data, "value")
    told = []
    assert from_json(Value, data, "value", Strictness(drop=told.append)) == Value("x", many=(Inner(1.0),))
    assert [line.split(";")[0] for line in told] == ["value: unknown field colr", "value.many[0]: unknown field pth"]
    with pytest.raises(DataError, match=r"value\.count"):  # what is known must fit all the same
        from_json(Value, {**data, "count": "1"}, "value", Strictness(drop=told.append))


def test_the_error_and_its_hint_are_the_callers():
    with pytest.raises(BundleError) as caught:
        from_json(Value, {"name": 1}, "bundle", Strictness(BundleError, "Fetch it again."))
    assert (caught.value.message, caught.value.hint) == ("bundle.name: expected str, found 1.", "Fetch it again.")
