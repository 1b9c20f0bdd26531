"""Time and memory of finding recordings in a synthetic fMRIPrep dataset, each case in a process of its own.

    python benchmarks/discovery.py [--participants 320] [--dir FOLDER]

63 files a participant (two runs, two template spaces, surfaces, figures), as fMRIPrep writes; 320 make about 20,000.
Prints a Markdown table; wall and CPU include the start of Python and the import of pybids.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

SPACES = ("", "_space-T1w", "_space-MNI152NLin2009cAsym", "_space-MNI152NLin6Asym_res-2")
CHILD = """
import sys
from pathlib import Path
from bids_fmmtc.dataset.find.discover import Query, find_derivatives, find_recordings
root, participants, database = sys.argv[1:]
query = Query(participants=tuple(filter(None, participants.split(","))))
selection = find_recordings(find_derivatives(Path(root)), query, Path(database) if database else None)
assert len(selection.recordings) == int(sys.stdin.readline()), len(selection.recordings)
"""


def make_participant(root, label):
    func, anat, figures = (root / f"sub-{label}" / name for name in ("func", "anat", "figures"))
    names = []
    for run in (1, 2):
        stem = f"sub-{label}_task-rest_run-{run}"
        for space in SPACES:
            names += [f"{stem}{space}_{kind}" for kind in ("desc-preproc_bold.nii.gz", "desc-preproc_bold.json")]
            names += [f"{stem}{space}_{kind}" for kind in ("desc-brain_mask.nii.gz", "boldref.nii.gz")]
        names += [f"{stem}_hemi-{h}_space-fsaverage5_bold.func.gii" for h in "LR"]
        names += [f"{stem}_desc-confounds_timeseries.{e}" for e in ("tsv", "json")]
    names = [func / name for name in names]
    names += [anat / f"sub-{label}_desc-{i}_T1w.nii.gz" for i in range(12)]
    names += [figures / f"sub-{label}_task-rest_desc-{i}_bold.svg" for i in range(11)]
    for folder in (func, anat, figures):
        folder.mkdir(parents=True)
    for path in names:
        path.write_text('{"RepetitionTime": 2.0}' if path.name.endswith("_bold.json") else "")
    return len(names)


def measure(root, participants, database, expected):
    """Return wall seconds, CPU seconds and peak RSS in MiB of a child process."""
    read, write = os.pipe()
    os.write(write, f"{expected}\n".encode())
    os.close(write)
    start = time.perf_counter()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", CHILD, str(root), participants, str(database or "")],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)],
    )
    os.close(read)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit("the child failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=320)
    parser.add_argument("--dir", type=Path, help="where to make the dataset (default: the temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        root, n = Path(folder) / "fmriprep", args.participants
        files = sum(make_participant(root, f"{i:04d}") for i in range(1, n + 1))
        (root / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
        print(f"{n} participants, {files} files\n\n| case | wall s | CPU s | peak RSS MiB |\n|---|---|---|---|")
        database = Path(folder) / "database"
        for case, participants, where in (
            ("one participant", "0007", None),
            ("one participant, again", "0007", None),
            ("all participants", "", None),
            ("all participants, pybids database made", "", database),
            ("all participants, pybids database reused", "", database),
            ("one participant, pybids database reused", "0007", database),
        ):
            wall, cpu, rss = measure(root, participants, where, 2 if participants else 2 * n)
            print(f"| {case} | {wall:.2f} | {cpu:.2f} | {rss:.0f} |")


if __name__ == "__main__":
    main()
