import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_fmmtc.errors import BundleError
from bids_fmmtc.learning.bundle.calibrate import (
    Calibration,
    Conformal,
    Limits,
    calibrated,
    embedded,
    is_number,
    pooled,
    prediction_set,
    read_calibration,
    read_conformal,
    read_reference,
    reference_flags,
)

CLASSES = ("non-responder", "responder")
finite = st.floats(-1e6, 1e6)
logits = st.lists(st.tuples(finite, finite), min_size=1, max_size=5)


@given(logits)
def test_none_is_the_softmax(pairs):
    data = np.array(pairs)
    shifted = np.exp(data - data.max(axis=1, keepdims=True))
    p = calibrated(data, Calibration())
    np.testing.assert_allclose(p, shifted[:, 1] / shifted.sum(axis=1), rtol=1e-12, atol=1e-300)
    assert ((p >= 0) & (p <= 1)).all()


@given(logits, st.floats(-100, 100), st.floats(-100, 100))
def test_platt_is_a_line_on_the_logit_difference(pairs, slope, intercept):
    data = np.array(pairs)
    p = calibrated(data, Calibration("platt", slope, intercept))
    line = np.stack([np.zeros(len(data)), slope * (data[:, 1] - data[:, 0]) + intercept], axis=1)
    np.testing.assert_array_equal(p, calibrated(line, Calibration()))


@given(logits)
def test_swapping_the_classes_gives_the_complement(pairs):
    data = np.array(pairs)
    np.testing.assert_allclose(
        calibrated(data[:, ::-1], Calibration()), 1 - calibrated(data, Calibration()), atol=1e-12
    )


@given(logits)
def test_pooled_logits_differ_by_the_mean_difference(pairs):
    data = np.array(pairs, np.float32)
    found = pooled(data)
    assert (found.shape, found.dtype) == ((1, 2), np.float64)
    exact = data.astype(np.float64)
    np.testing.assert_allclose(found[0, 1] - found[0, 0], (exact[:, 1] - exact[:, 0]).mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(pooled(data[:1]), exact[:1])


def test_one_sure_window_does_not_vanish_in_the_mean():
    """Three windows of logit 1, 1 and 10: the mean of probabilities would be 0.82, the pooled one is 0.98."""
    data = np.array([[0, 1], [0, 1], [0, 10]])
    assert calibrated(pooled(data), Calibration())[0] == pytest.approx(1 / (1 + np.exp(-4)))


def test_numbers():
    assert all(map(is_number, (0, 1.5, np.float32(2))))
    assert not any(map(is_number, (True, None, "1", math.nan, math.inf, [1])))


def test_logits_shape():
    with pytest.raises(ValueError, match=r"\(W, 2\)"):
        calibrated(np.zeros((3, 3)), Calibration())


@pytest.mark.parametrize(
    "calibration",
    [
        {"kind": "isotonic"},
        {},
        None,
        [],
        {"kind": ["none"]},
        {"kind": "platt"},
        {"kind": "platt", "slope": 1},
        {"kind": "platt", "slope": "1", "intercept": 0},
        {"kind": "platt", "slope": True, "intercept": 0},
        {"kind": "platt", "slope": math.inf, "intercept": 0},
        {"kind": "none", "slope": 1},
    ],
)
def test_bad_calibrations_are_refused(calibration):
    with pytest.raises(BundleError, match="calibration"):
        read_calibration(calibration)


@pytest.mark.parametrize(
    ("p", "quantiles", "expected"),
    [
        (0.9, [0.5, 0.5], ("responder",)),
        (0.1, [0.5, 0.5], ("non-responder",)),
        (0.5, [0.5, 0.5], CLASSES),
        (0.7, [0.8, 0.8], CLASSES),
        (0.7, [0.6, 0.8], ("responder",)),  # each class has its own quantile
        (0.3, [0.6, 0.6], ("non-responder",)),
        (0.3, [0.2, 0.8], CLASSES),  # responder alone would contradict the label
        (0.75, [0.25, 0.25], ("responder",)),
        (0.6, [0.3, 0.3], CLASSES),  # nothing conforms: everything is kept
        (1.0, [0.0, 0.0], ("responder",)),
        (0.0, [1.0, 1.0], CLASSES),
    ],
)
def test_prediction_set(p, quantiles, expected):
    assert prediction_set(p, CLASSES, Conformal(0.1, tuple(quantiles)), 0.5) == expected


@given(st.floats(0, 1), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.floats(0, 1))
def test_prediction_set_holds_the_label_and_what_conforms(p, quantiles, threshold):
    found = prediction_set(p, CLASSES, Conformal(0.1, tuple(quantiles)), threshold)
    assert CLASSES[int(p >= threshold)] in found
    assert found == tuple(c for c in CLASSES if c in found)
    if 1 - p <= quantiles[1]:
        assert "responder" in found
    if p <= quantiles[0]:
        assert "non-responder" in found


@pytest.mark.parametrize(
    "conformal",
    [
        [],
        {"alpha": 0.1},
        {"alpha": 0.1, "quantile": 0.5},
        {"alpha": 0.1, "quantiles": 0.5},
        {"alpha": 0.1, "quantiles": [0.5]},
        {"alpha": 0.1, "quantiles": [0.5, 0.5, 0.5]},
        {"alpha": 0.1, "quantiles": "ab"},
        {"alpha": 0.1, "quantiles": [0.5, 2]},
        {"alpha": 0.1, "quantiles": [math.nan, 0.5]},
        {"alpha": 0.1, "quantiles": [True, 0.5]},
        {"alpha": -0.1, "quantiles": [0.5, 0.5]},
        {"alpha": None, "quantiles": [0.5, 0.5]},
        {"alpha": 0.1, "quantiles": [0.5, 0.5], "more": 1},
    ],
)
def test_bad_conformal_is_refused(conformal):
    with pytest.raises(BundleError, match="conformal"):
        read_conformal(conformal)


def test_reference_flags():
    reference = {name: Limits(low=0, high=1) for name in ("tsnr", "fd", "coverage", "low_edge", "text", "nan", "bool")}
    quality = {"tsnr": 1.5, "fd": -0.1, "low_edge": 0, "text": "0.5", "nan": math.nan, "bool": True, "other": 9}
    assert reference_flags(quality.get, reference) == (
        "outside_reference:fd",
        "outside_reference:tsnr",
        "unknown:bool",
        "unknown:coverage",
        "unknown:nan",
        "unknown:text",
    )


def test_words_are_known_outside_or_missing():
    reference = {name: Limits(values=("same", "packaged")) for name in ("a", "b", "c", "d")}
    quality = {"a": "same", "b": "affine", "c": 1.0}
    assert reference_flags(quality.get, reference) == ("outside_reference:b", "unknown:c", "unknown:d")


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-10, 0), st.floats(0, 10))
def test_reference_ends_belong_to_the_range(value, low, high):
    flags = reference_flags({"x": np.float64(value)}.get, {"x": Limits(high, low)})
    assert flags == (() if low <= value <= high else ("outside_reference:x",))
    assert (reference_flags({"x": value}.get, {"x": Limits(low=low)}) == ()) == (value >= low)
    assert (reference_flags({"x": value}.get, {"x": Limits(high=high)}) == ()) == (value <= high)


@pytest.mark.parametrize(
    "limits",
    [
        1,
        [],
        {},
        {"low": 1, "high": 0},
        {"low": 0, "hi": 1},
        {"high": None},
        {"high": math.inf},
        {"high": True},
        {"values": []},
        {"values": "same"},
        {"values": [1]},
        {"values": {"same": 1}},
        {"values": ["same"], "low": 0},
    ],
)
def test_bad_reference_is_refused(limits):
    with pytest.raises(BundleError, match="reference x"):
        read_reference({"x": limits})
    with pytest.raises(BundleError, match="reference: expected an object"):
        read_reference([limits])


def test_embeddings_of_a_reference():
    assert embedded(dict.fromkeys(("tsnr", "embedding_fc", "embedding_brainlm"), Limits(high=1.0))) == ("brainlm", "fc")
    assert embedded(None) == embedded({}) == ()
