import json

import numpy as np
import pytest

from bids_fmmtc.plain import to_json
from bids_fmmtc.quality import IMPORTED, read_quality
from bids_fmmtc.signals.denoise import Cleaned, Confounds
from bids_fmmtc.signals.parcellate import Parcellated
from bids_fmmtc.signals.quality import BY_POSITION_DESPITE_NAMES, FLAGS, frame_table, measure
from bids_fmmtc.signals.windows import Frames
from bids_fmmtc.types import RoiSeries

N, R = 200, 100


def facts(*, n=N, tr=2.0, lost=0, coverage=1.0, n_low=0, fd=0.1, dropped=0, censored=(), tsnr=50.0, dvars=1.0, **more):
    """Return quality numbers of a faultless recording, with what is asked for changed."""
    values = np.ones((n, R), np.float32)
    values[:, :lost] = np.nan
    share = np.full(R, coverage, np.float32)
    share[:n_low] = 0.4
    keep = np.ones(n, bool)
    keep[:dropped] = False
    keep[list(censored)] = False
    cleaned = Cleaned(values, keep, dropped, len(censored), ())
    fd = np.broadcast_to(np.asarray(fd, float), n) if fd is not None else None
    table = None
    if fd is not None:
        table = Confounds("x", ("framewise_displacement", "std_dvars"), np.stack([fd, np.full(n, dvars)], 1))
    options = {"placement": "same", "has_mask": True, "header_tr": tr, **more}
    windows = np.array([[0, 100], [60, 160]], np.int32)
    left = np.arange(int(keep.sum())) if more.get("target") is None else np.arange(n)
    frames = Frames(values, windows, left * 1.0, options.pop("target", tr), options.pop("padded", False))
    raw = Parcellated(RoiSeries(values, share, tr), np.ones(R, np.int64), tsnr)
    return measure(raw, cleaned, options.pop("confounds", table), frames, **options)


RAISED = {
    "high_motion": ({"fd": 0.51}, {"fd": 0.5}),
    "motion_unknown": ({"fd": None}, {"fd": 0.0}),
    "few_minutes": ({"n": 149}, {"n": 150}),
    "parcels_lost": ({"lost": 6}, {"lost": 5}),
    "low_coverage": ({"n_low": 6}, {"n_low": 5}),
    "no_brain_mask": ({"has_mask": False}, {"has_mask": True}),
    "space_affine": ({"placement": "affine"}, {"placement": "packaged"}),
    "padded": ({"padded": True}, {"padded": False}),
    "repetition_time_disagrees": ({"header_tr": 2.03}, {"header_tr": 2.01}),
    "repetition_time_from_header": ({"repetition_time_of": "header"}, {"repetition_time_of": "sidecar"}),
    "single_echo": ({"single_echo": True}, {"single_echo": False}),
    "places_disagree": ({"places_disagree": True}, {"places_disagree": False}),
    "mask_thresholded": ({"mask_thresholded": True}, {"mask_thresholded": False}),
    "imported_series": ({"placement": IMPORTED, "has_mask": False}, {"placement": "same"}),
    "frames_removed": ({"frames_removed": True}, {"frames_removed": False}),
    "names_differ": ({"columns_matched": BY_POSITION_DESPITE_NAMES}, {"columns_matched": "position"}),
}


def test_a_faultless_recording_raises_no_flag():
    assert facts().flags == ()


def test_every_flag_is_tried():
    assert set(RAISED) == set(FLAGS)


@pytest.mark.parametrize("flag", FLAGS)
def test_flag_is_raised_beyond_its_limit_and_not_at_it(flag):
    raised, quiet = RAISED[flag]
    assert facts(**raised).flags == (flag,)
    assert facts(**quiet).flags == ()


def test_a_header_without_repetition_time_disagrees_with_nothing():
    assert facts(header_tr=None).flags == ()
    assert facts(header_tr=1.0).flags == ("repetition_time_disagrees",)


def test_coverage_of_exactly_half_is_not_low():
    assert facts(coverage=0.5).n_low_coverage == 0
    assert facts(coverage=0.499).n_low_coverage == R


def test_minutes_count_the_frames_that_are_left():
    q = facts(dropped=10, censored=range(50, 91))
    assert (q.n_frames, q.n_dropped, q.n_censored, q.n_frames_left) == (200, 10, 41, 149)
    assert q.minutes_left == pytest.approx(149 * 2 / 60, rel=1e-5)
    assert q.flags == ("few_minutes",)


def test_windows_have_frames_and_a_repetition_time_of_their_own():
    q = facts(dropped=10)
    assert (q.n_frames_left, q.n_frames_in_windows, q.window_repetition_time) == (190, 160, 2.0)
    q = facts(target=0.72)
    assert (q.repetition_time, q.window_repetition_time, q.n_frames_in_windows) == (2.0, 0.72, 160)
    assert q.minutes_left == pytest.approx(200 * 2 / 60, rel=1e-5)  # of the recording's own frames


def test_motion_is_of_all_frames_but_dropped_ones():
    fd = np.full(N, 0.2)
    fd[0], fd[1], fd[2], fd[3], fd[100] = np.nan, 9, 9, np.nan, 0.8
    q = facts(fd=fd, dropped=3, censored=[100])
    assert q.max_fd == 0.8
    assert q.mean_fd == pytest.approx((195 * 0.2 + 0.8) / 196, rel=1e-5)
    assert q.share_high_fd == pytest.approx(1 / 196, rel=1e-5)


def test_a_frame_at_half_a_millimetre_is_not_high():
    assert facts(fd=0.5).share_high_fd == 0
    assert facts(fd=0.5001).share_high_fd == 1


def test_other_numbers():
    q = facts(lost=3, n_low=2, coverage=0.9, dvars=1.25, tsnr=123.456789)
    assert (q.n_lost_parcels, q.n_low_coverage, q.n_parcels) == (3, 2, R)
    assert q.least_coverage == 0.4
    assert q.mean_coverage == pytest.approx((2 * 0.4 + 98 * 0.9) / 100, rel=1e-5)
    assert q.mean_std_dvars == 1.25
    assert q.tsnr == 123.457
    assert (q.repetition_time, q.header_repetition_time, q.placement) == (2.0, 2.0, "same")


def test_what_else_is_known_rules_and_raises_flags():
    q = facts(fd=None, mean_fd=0.6, tsnr=float("nan"))
    assert (q.mean_fd, q.max_fd) == (0.6, None)
    assert q.flags == ("high_motion",)


def test_a_table_without_motion():
    table = Confounds("x", ("csf",), np.ones((N, 1)))
    q = facts(confounds=table)
    assert q.mean_fd is q.max_fd is q.share_high_fd is q.mean_std_dvars is None
    assert q.flags == ("motion_unknown",)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"fd": None},
        {"fd": np.nan, "dvars": np.nan},
        {"dvars": np.inf},
        {"tsnr": float("nan")},
        {"tsnr": np.float64(3.0)},
        {"lost": R, "coverage": 0.0},
        {"dropped": N},
        {"header_tr": None},
    ],
    ids=str,
)
def test_every_number_is_strict_json(change):
    q = facts(**change)
    stored = to_json(q)
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert read_quality({"Quality": stored}) == q
    assert all(v is None or type(v) in (int, float, bool, str, list) for v in stored.values())


def test_every_frame_has_a_row():
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    values[4] = np.nan
    keep = np.array([False, True, True, False, False, True])
    cleaned = Cleaned(values, keep, 1, 2, ())
    table = Confounds("x", ("framewise_displacement",), np.linspace(0, 0.5, 6)[:, None])
    found = frame_table(RoiSeries(values, np.ones(2, np.float32), 2.5), cleaned, table, 2.5)
    assert found["onset"].tolist() == [0, 2.5, 5, 7.5, 10, 12.5]
    assert found["status"].tolist() == ["dropped", "used", "used", "censored", "censored", "used"]
    np.testing.assert_allclose(found["framewise_displacement"], np.linspace(0, 0.5, 6))
    assert np.isnan(found["std_dvars"]).all()
    np.testing.assert_array_equal(found["mean_signal"], [0.5, 2.5, 4.5, 6.5, np.nan, 10.5])


def test_motion_of_other_frames_is_not_put_beside_them():
    values = np.ones((6, 2), np.float32)
    cleaned = Cleaned(values, np.ones(6, bool), 0, 0, ())
    for confounds in (None, Confounds("x", ("framewise_displacement",), np.ones((8, 1)))):
        found = frame_table(RoiSeries(values, np.ones(2, np.float32), 2.0), cleaned, confounds, 2.0)
        assert np.isnan(found["framewise_displacement"]).all()
