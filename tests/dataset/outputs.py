"""Output datasets of ours with small features, written by the functions that the participant level uses."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
from qualities import FAULTLESS

from bids_fmmtc.dataset.derivatives import sidecars
from bids_fmmtc.dataset.derivatives.describe import prepare_dataset
from bids_fmmtc.dataset.derivatives.scans import write_scans
from bids_fmmtc.dataset.derivatives.sidecars import Context, Links
from bids_fmmtc.dataset.store import Layout, read_record, write_features, write_json, write_table
from bids_fmmtc.keys import Key
from bids_fmmtc.recipe import AtlasSpec, ModalitySpec, Recipe
from bids_fmmtc.rows import Row
from bids_fmmtc.settings import Task
from bids_fmmtc.types import Atlas, Failure, Features, Prediction, Recording

R, H = 4, 3
ATLAS = Atlas(
    "Tiny",
    "S",
    np.arange(1, R + 1, dtype=np.int32).reshape(1, 1, R),
    np.eye(4),
    tuple(range(1, R + 1)),
    tuple(f"p{i}" for i in range(R)),
    None,
    np.zeros((R, 3), np.float32),
    "0" * 64,
)
RECIPE = Recipe(
    atlas=AtlasSpec("Tiny", "0" * 64, R), modalities=(ModalitySpec("brainlm", "1" * 64), ModalitySpec("fc"))
)


def recording(key, space="S"):
    """Return the recording of a key such as ``sub-01_ses-a_task-rest_acq-x_run-1``."""
    labels = dict(part.split("-", 1) for part in key.split("_"))
    more = tuple((k, v) for k, v in labels.items() if k not in ("sub", "ses", "task", "run"))
    return Recording(
        labels["sub"], labels.get("ses"), labels["task"], labels.get("run"), more, space, None,
        Path("/in/b.nii.gz"), None, None, 2.0, Path("/in"),
    )  # fmt: skip


class Output:
    """One output dataset; everything written is kept under its key for comparison."""

    def __init__(self, root, recipe=RECIPE, source=None):
        self.recipe, self.layout = recipe, Layout(root, ATLAS.name)
        source = source or root.parent / "in"
        write_json(source / "dataset_description.json", {"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}]})
        prepare_dataset(self.layout, recipe, ATLAS, {"fmriprep": source})
        self.features = {}

    @property
    def root(self):
        return self.layout.root

    def add(self, key, windows=2, space="S", **quality):
        """Write the features of one recording; returns its record."""
        rng = np.random.default_rng(list(key.encode()))
        arrays = {
            "brainlm": rng.standard_normal((windows, H)).astype(np.float32),
            "fc": rng.standard_normal((windows, R, R)).astype(np.float32),
        }
        spans = np.array([[i * 200, i * 200 + 200] for i in range(windows)], np.int32)
        numbers = replace(FAULTLESS, **quality)
        features = Features(key, spans, arrays, numbers, self.recipe.digest)
        about = Context(recording(key, space), ATLAS, self.recipe, Links(self.root, {}), numbers)
        path = self.layout.derivative(recording(key, space), "features", ".safetensors")
        sha256 = write_features(path, features)
        shapes = {name: array.shape[1:] for name, array in arrays.items()}
        write_json(path.with_suffix(".json"), sidecars.features_record(about, key, shapes, sha256))
        self.features[key] = features
        return path.with_suffix(".json")

    def fail(self, key, kind="image", message="it is cut off."):
        """Write what a failed attempt leaves: its record, or a note in that of what stands, and a row in scans.tsv."""
        subject = Key(key).subject
        known = (recording(key),) if "_task-" in key else ()
        failure = Failure(key, "extract", kind, message, "Mend it.")
        write_scans(Task(subject, known, (), self.recipe, self.root, Path("/a")), [Row(key, failure)], self.layout)
        return failure

    def stale(self, key):
        """Let a recording's features be of an input that has changed since."""
        path = self.layout.derivative(recording(key, "S"), "features", ".json")
        write_json(path, {**(read_record(path) or {}), "Status": "stale", "Changed": ["bold"]})

    def predict(self, key, probability=0.7, digest="d" * 64, demo=False, failure=None, flags=()):
        """Write a session's prediction, or its row without one."""
        subject, session = Key(key).subject, Key(key).session
        found = None
        if failure is None:
            windows = np.array([probability, probability], np.float32)
            label = "responder" if probability >= 0.5 else "non-responder"
            found = Prediction(key, probability, windows, 0.5, label, None, tuple(flags), digest)
        qc = failure or ",".join(flags) or "ok"
        row = sidecars.prediction_row(subject, session, found, [FAULTLESS], qc)
        columns = [c for c in sidecars.PREDICTION_COLUMNS if c != "session_id" or session is not None]
        table = self.layout.prediction(subject, session, key, ".tsv")
        write_table(table, columns, [row])
        model = {"ModelName": "Small", "DemoModel": demo, "BundleDigest": digest}
        write_json(table.with_suffix(".json"), sidecars.prediction_sidecar(found, model, {}, failure or ""))
        return table


def other_recipe(**changes):
    """Return the recipe with other fields."""
    return dataclasses.replace(RECIPE, **changes)


def write_people(path, header, *lines):
    """Write a table from tuples of cells; numbers become text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join("\t".join(map(str, line)) for line in (header, *lines))
    path.write_text(text + "\n", encoding="utf-8")
    return path
