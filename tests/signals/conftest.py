import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_fmmtc.signals.atlas import LabelGrid
from bids_fmmtc.types import Atlas, Recording

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def _shared(part):
    path = SHARED / "data" / part
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


@pytest.fixture(scope="session")
def a424_folder():
    return _shared("atlas")


@pytest.fixture(scope="session")
def meta():
    return _shared("fmriprep_meta")


@pytest.fixture(scope="session")
def devfix():
    return _shared("bold4d/devfix/sub-rapidtide/func")


@pytest.fixture(scope="session")
def devfix_recording(devfix):
    stem = "sub-rapidtide_task-rest"
    space = f"{stem}_space-MNI152NLin2009cAsym"
    return Recording(
        subject="rapidtide",
        session=None,
        task="rest",
        run=None,
        entities=(),
        space="MNI152NLin2009cAsym",
        resolution=None,
        bold=devfix / f"{space}_desc-preproc_bold.nii.gz",
        mask=devfix / f"{space}_desc-brain_mask.nii.gz",
        confounds=devfix / f"{stem}_desc-confounds_timeseries.tsv",
        repetition_time=1.5,
        dataset=devfix.parents[1],
    )


@pytest.fixture(scope="session")
def grid_of():
    """Labels (X, Y, Z) -> LabelGrid whose expected counts are those of the array, or as given."""

    def make(labels, n=None, expected=None):
        labels = np.asarray(labels, np.int32)
        n = int(labels.max()) if n is None else n
        counts = np.bincount(labels.ravel(), minlength=n + 1)[1:] if expected is None else expected
        return LabelGrid(labels, np.asarray(counts, np.int64))

    return make


@pytest.fixture(scope="session")
def tiny_atlas():
    """Labels (X, Y, Z) and an affine -> Atlas without files."""

    def make(labels, affine=None, space="MNI152NLin6Asym", n=None):
        labels = np.asarray(labels, np.int32)
        n = int(labels.max()) if n is None else n
        affine = np.eye(4) if affine is None else np.asarray(affine, np.float64)
        names = tuple(f"p{i}" for i in range(1, n + 1))
        xyz = np.zeros((n, 3), np.float32)
        return Atlas("tiny", space, labels, affine, tuple(range(1, n + 1)), names, None, xyz, "0" * 64)

    return make


@pytest.fixture(scope="session")
def write_bold(tmp_path_factory):
    """Write raw values (X, Y, Z, T) as they are, with any header; returns the path."""
    folder = tmp_path_factory.mktemp("bold")
    number = itertools.count()

    def write(
        raw,
        *,
        affine=None,
        slope=np.nan,
        inter=0.0,
        suffix=".nii.gz",
        members=1,
        tr=2.0,
        unit="sec",
        endianness="<",
        path=None,
    ):
        raw = np.asarray(raw)
        header = nib.Nifti1Header(endianness=endianness)
        header.set_data_shape(raw.shape)
        header.set_data_dtype(raw.dtype)
        header.set_sform(np.eye(4) if affine is None else affine, 1)
        header.set_xyzt_units("mm", unit)
        header["pixdim"][1:4] = nib.affines.voxel_sizes(np.eye(4) if affine is None else affine)
        header["pixdim"][4:6] = tr
        header["scl_slope"], header["scl_inter"] = slope, inter
        header["vox_offset"], header["magic"] = 352, b"n+1"
        on_disk = raw.astype(raw.dtype.newbyteorder(endianness))
        data = header.binaryblock + b"\0" * 4 + on_disk.tobytes(order="F")
        path = path or folder / f"bold{next(number)}{suffix}"
        if str(path).endswith(".gz"):
            cuts = np.linspace(0, len(data), members + 1).astype(int)
            data = b"".join(gzip.compress(data[a:b], 1) for a, b in itertools.pairwise(cuts))
        path.write_bytes(data)
        return path

    return write


MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


@pytest.fixture
def table(tmp_path):
    """Write a confounds table of ``n`` frames; columns may be given as arrays or text cells."""

    def write(n=40, columns=None, without=(), name="sub-1_desc-confounds_timeseries.tsv", json=None):
        rng = np.random.default_rng(1)
        names = [*MOTION, "csf", "white_matter", "global_signal"]
        powers = [f"{c}{s}" for c in names for s in ("_derivative1", "_power2", "_derivative1_power2")]
        data = {c: [f"{v:.6f}" for v in rng.normal(0, 0.1, n)] for c in [*names, *powers, "cosine00", "std_dvars"]}
        data["framewise_displacement"] = ["n/a"] + ["0.1"] * (n - 1)
        for c in powers:
            if "derivative" in c:
                data[c][0] = "n/a"
        data |= {c: [str(v) for v in values] for c, values in (columns or {}).items()}
        data = {c: v for c, v in data.items() if c not in without}
        rows = ["\t".join(data), *("\t".join(row) for row in zip(*data.values(), strict=True))]
        path = tmp_path / name
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        if json is not None:
            path.with_suffix(".json").write_text(json, encoding="utf-8")
        return path

    return write
