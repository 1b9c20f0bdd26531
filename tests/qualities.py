"""The quality of a faultless recording, for tests that need one."""

from dataclasses import replace

from bids_fmmtc.quality import Quality

FAULTLESS = Quality(
    n_frames=300,
    n_dropped=0,
    n_censored=0,
    n_frames_left=300,
    minutes_left=10.0,
    n_frames_in_windows=200,
    window_repetition_time=2.0,
    repetition_time=2.0,
    header_repetition_time=2.0,
    mean_fd=0.1,
    max_fd=0.4,
    share_high_fd=0.0,
    mean_std_dvars=1.0,
    tsnr=50.0,
    mean_coverage=0.9,
    least_coverage=0.6,
    n_low_coverage=0,
    n_lost_parcels=0,
    n_parcels=100,
    placement="same",
    has_mask=True,
    padded=False,
)


def quality(**changes):
    """Return the quality of a faultless recording, with what is asked for changed."""
    return replace(FAULTLESS, **changes)
