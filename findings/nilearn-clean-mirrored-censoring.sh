#!/bin/sh
# nilearn.signal.clean lets censored frames through where two of them lie mirrored about the middle of a run.
#
# Version: nilearn 0.14.1 (Python 3.11, numpy 2.4.6, scipy 1.17.1). Input: valid by its documentation (a `sample_mask`
# of kept frames and a Butterworth filter). Documented: "interpolate high motion volumes with cubic spline
# interpolation" before filtering. Seen: `_interpolate_volumes` writes to `volumes[~sample_mask]`, but sample_mask holds
# indices, of which ~ is -i-1: frame i is replaced if frame T-1-i is KEPT. So
#   1. two censored frames i and T-1-i go into the filter as they were measured, and kept frames move;
#   2. with the first and the last frame left out (the default, extrapolate=False), neither is cut off, and what comes
#      back is shifted by one frame: it begins with the frame that was left out.
# Seen on the synthetic input below (kept frames in standard deviations of their cleaned series):
#   censored 60 and 138 (not mirrored): kept frames move by 0.00 SD
#   censored 60 and 139 (mirrored):     kept frames move by 31.27 SD
#   first and last left out, nothing else: 198 frames come back, equal to frames 0..197 as if none were left out
#
# Usage: nilearn-clean-mirrored-censoring.sh [PYTHON]   (a Python with nilearn, to install nothing)
# Exit 0: nilearn behaves as told; 1: it no longer does; 2: it could not be tried.
set -eu
version=0.14.1
if [ $# -gt 0 ]; then
    python=$1
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python3 -m venv "$folder/venv" || exit 2
    "$folder/venv/bin/pip" install -q "nilearn==$version" || exit 2
    python="$folder/venv/bin/python"
fi
"$python" - "$version" <<'PYTHON'
import sys
import warnings

import nilearn
import numpy as np
from nilearn.signal import clean

warnings.simplefilter("ignore")
if nilearn.__version__ != sys.argv[1]:
    print(f"this is about nilearn {sys.argv[1]}, found {nilearn.__version__}")
    sys.exit(2)
print("nilearn", nilearn.__version__, "numpy", np.__version__)
T = 200
rng = np.random.default_rng(0)
series = rng.normal(size=(T, 10)).cumsum(axis=0) + 1000
options = {"detrend": True, "standardize": None, "high_pass": 0.008, "low_pass": 0.1, "t_r": 2.0}


def moved(censored):
    """How far kept frames move when only the censored ones change, in SD."""
    keep = np.setdiff1d(np.arange(T), censored)
    spiked = series.copy()
    spiked[censored] += 200
    one, other = (clean(x.copy(), sample_mask=keep.copy(), **options) for x in (series, spiked))
    return float(np.abs(one - other).max() / one.std())


apart, mirrored = moved([60, 138]), moved([60, 139])
print(f"censored 60 and 138 (not mirrored): kept frames move by {apart:.2f} SD")
print(f"censored 60 and 139 (mirrored):     kept frames move by {mirrored:.2f} SD")
ends = clean(series.copy(), sample_mask=np.arange(1, T - 1), **options)
shifted = np.allclose(ends, clean(series.copy(), **options)[: T - 2])
print(f"first and last left out: {len(ends)} frames; equal to frames 0..{T - 3} as if none were left out: {shifted}")
as_told = apart == 0 and mirrored > 1 and shifted
print("as told" if as_told else "nilearn no longer behaves as told")
sys.exit(0 if as_told else 1)
PYTHON
