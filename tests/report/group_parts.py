"""A small output dataset with analyses, written table by table, and a parser that looks at a page's HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import nibabel as nib
import numpy as np

from bids_fmmtc.dataset.derivatives.collate import LONG_COLUMNS, QUALITY_TABLE
from bids_fmmtc.dataset.store import write_json, write_table
from bids_fmmtc.modalities.about import LETTERS
from bids_fmmtc.results.record import evaluation_of, origin_of
from bids_fmmtc.results.verdict import verdicts as sentences

HOSTILE = "<script>alert(1)</script>"
TRUNCATED = "image: sub-04_bold.nii.gz is truncated. Copy the file again."
RECIPE = {
    "atlas": {"name": "Tiny", "n_parcels": 12},
    "denoising": {"strategy": "simple"},
    "windows": {"length": 40, "stride": 20},
    "connectivity": {"kind": "pearson", "fisher_z": True},
    "modalities": [{"name": "brainlm"}, {"name": "fc"}],
}


def verdicts(content):
    """Return the texts that the group level would store with such an evaluation."""
    return [each.text for each in sentences(evaluation_of(content), LETTERS)]


def holding(analysis, content):
    """Return an analysis as it would be read with another ``evaluation.json``."""
    found = {"origin": origin_of(content), "evaluation": evaluation_of(content), "readable": bool(content)}
    return replace(analysis, **found)


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "undefined_draws": 0}


def metrics(auroc=(0.71, 0.58, 0.82)):
    """Measures of a classifier."""
    found = dict.fromkeys(("auroc", "auroc_within"), estimate(*auroc))
    found |= {"auprc": estimate(0.66, 0.51, 0.79), "mcc": estimate(0.31, 0.05, 0.55)}
    found |= {"sensitivity": estimate(0.625, 0.31, 0.87), "specificity": estimate(0.75, 0.41, 0.93)}
    found |= {"ppv": estimate(0.7, 0.4, 0.9), "npv": estimate(0.6, 0.3, 0.8)}
    return found | {"calibration_slope": estimate(0.83, 0.21, 1.47), "calibration_intercept": estimate(0.02, -0.4, 0.5)}


def model(text, role, auroc):
    return {"text": text, "role": role, "status": "ok", "metrics": metrics(auroc), "settings": []}


def evaluation(auroc=(0.71, 0.58, 0.82), p=0.004, **more):
    """Content of an ``evaluation.json`` of a classification; by default with an effect."""
    rng = np.random.default_rng(3)
    found = {
        "SoftwareVersion": "0.1.0",
        "Command": "bids_fmmtc in out group --outcome responder",
        "Analysis": "main",
        "Outcome": "responder where responder is 1",
        "Sources": {"responder": "/data/participants.tsv"},
        "Notes": ["one scan each, but not of one session"],
        "RecipeDigest": "abc123" * 8,
        "Recipe": RECIPE,
        "kind": "classification",
        "n": 16,
        "people": {
            "sessions": 16, "participants": 16, "excluded": 2, "responders": 8, "non_responders": 8,
            "reasons": {f"failed: {TRUNCATED}": 1, "the outcome is missing": 1},
        },
        "scheme": {"folds": 5, "repeats": 4, "inner_folds": 3, "seed": 7, "interval": "95 %, bootstrap over people"},
        "models": {
            "model": model("FMM_TC with the linear head, T + C", "model", auroc),
            "c_only": model("connectivity only (C)", "ablation", (0.68, 0.52, 0.81)),
            "majority": model("every session has the same answer", "baseline", (0.5, 0.5, 0.5)),
            "site": model("site only", "baseline", (0.44, 0.30, 0.61)),
            "motion": {"text": "motion only", "role": "baseline", "status": "not run", "reason": "motion is unknown"},
        },
        "comparisons": [
            {
                "against": "site", "metric": "auroc_within", "difference": estimate(0.27, 0.04, 0.49),
                "corrected_resampled_t": {
                    "difference": 0.27, "low": 0.02, "high": 0.5, "t": 2.36, "p": 0.029, "folds": 20,
                },
            }
        ],
        "permutation": {
            "metric": "auroc_within", "n": 200, "observed": auroc[0], "p": p,
            "null": rng.normal(0.5, 0.1, 200).tolist(),
        },
        "within_site": estimate(0.69, 0.55, 0.8),
        "external": {},
        "bundle": {"status": "ok", "folder": "bundle", "digest": "d" * 64},
        "trial": trial(),
        "explanation": explanation(),
    }  # fmt: skip
    found |= more
    return found | {"verdicts": verdicts(found)}


def regression(**more):
    """Content of an ``evaluation.json`` of a number as outcome."""
    names = ("r", "r_within", "spearman", "r2", "mae", "rmse")
    values = {name: estimate(0.41 + i / 100, 0.11, 0.66) for i, name in enumerate(names)}
    own = {"text": "FMM_TC with the linear head", "role": "model", "status": "ok", "metrics": values}
    none = {"status": "not run", "reason": "a trial is planned for responders; give --responder-if"}
    given = {"kind": "regression", "models": {"model": own}, "comparisons": [], "permutation": None, "trial": none}
    given["people"] = {"sessions": 16, "participants": 16, "excluded": 0, "reasons": {}}
    given["within_site"] = None
    made = {k: v for k, v in {**evaluation(), **given, **more}.items() if v is not None}
    return made | {"verdicts": verdicts(made)}


def trial(**more):
    """A plan of four thresholds, one of them unreliable, one without a reachable trial at its high end."""

    def row(threshold, rule, rate, enrolled, *, reliable=True):
        return {
            "threshold": threshold, "rule": rule, "people": 12.0, "share": estimate(0.9 - threshold, 0.1, 0.95),
            "rate": estimate(rate, rate - 0.2, min(rate + 0.2, 1)), "rise": estimate(0.1, 0.0, 0.2),
            "control": estimate(0.3, 0.3, 0.3), "reliable": reliable, "cautions": [] if reliable else ["few people"],
            "trial": {
                "enrolled": {**estimate(enrolled, enrolled / 3), "high": None if enrolled > 150 else enrolled * 30},
                "screened": estimate(enrolled * 2, 10, 2000), "cost": estimate(enrolled * 5000.0, 10.0, 1e8),
                "saving": estimate(1.0, 0.0, 2.0),
            },
        }  # fmt: skip

    curve = [
        {"threshold": t, "model": estimate(0.4 - t / 2, 0.1, 0.6), "everybody": estimate(0.5 - t, 0.2, 0.6),
         "advantage": estimate(0.1, 0.02 if t < 0.4 else -0.1, 0.2)}
        for t in (0.1, 0.3, 0.5, 0.7)
    ]  # fmt: skip
    return {
        "status": "ok", "verdict": "not supported", "control": "given",
        "options": {"power": 0.8, "alpha": 0.05, "ratio": 1.0, "control_rate": 0.3, "currency": "EUR"},
        "sentences": ["At the model's own decision threshold 0.52, half are kept."], "notes": ["Intervals hold 95 %."],
        "enrichment": [
            row(0.0, "everybody", 0.5, 154.0), row(0.52, "decision", 0.7, 36.0), row(0.4, "share", 0.65, 48.0),
            row(0.8, "share", 0.9, 12.0, reliable=False),
        ],
        "decision_curve": curve,
    } | more  # fmt: skip


def explanation(**more):
    share = {"share_low": 0.3, "share_high": 0.5, "between_low": 0.1, "between_high": 0.4}
    parcels = [
        {"index": i, "name": f"P{i:02d}", "network": "visual", "mean": -0.01 * i, "absolute": 0.1, "rank": i,
         "between": 0.2 - 0.05 * i, "stability": 0.9}
        for i in range(1, 7)
    ]  # fmt: skip
    edge = {"name_1": "P01", "network_1": "visual", "name_2": "P05", "network_2": "motor", "rank": 1}
    return {
        "status": "ok", "people": 16, "of": 16, "steps": 16, "completeness_error": 0.0012, "top_stability": 0.86,
        "encoder": False, "windows_each": None, "baseline": {"fc": "mean fc of the training set"},
        "shares": [
            {"modality": "brainlm", "share": 0.4, "between": 0.25, **share},
            {"modality": "fc", "share": 0.6, "between": 0.75, **share},
        ],
        "top_parcels": parcels,
        "top_edges": [{**edge, "mean": 0.01, "absolute": 0.02, "between": 0.123}],
        "sanity": {"passes": True, "text": "Model randomisation: passed.", "rows": [
            {"map": "edges", "summary": "absolute", "random_model": 0.12, "input_size": 0.38, "passes": True}]},
        "participants": ["sub-01_task-rest"], "compared": {},
    } | more  # fmt: skip


def write_map(path, values=(0.5, -0.25, 0.1)):
    """Write a small attribution map with three parcels."""
    image = np.zeros((9, 11, 9), np.float32)
    for i, value in enumerate(values):
        image[2 + 2 * i, 2:9, 1:8] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(image, np.diag([6.0, 6.0, 6.0, 1.0])).to_filename(path)


def write_dataset(root, n=16, demo=False, predicted=(), site="north"):
    """Write the group tables of ``n`` people who are well, sub-900 who failed, and sub-901 who is missing."""
    made = [{"Name": "bids_fmmtc", "Version": "0.1.0", "ConfigurationHash": "abc123" * 8, "Recipe": RECIPE}]
    made += [{"Name": "bids_fmmtc-demo"}] if demo else []
    write_json(root / "dataset_description.json", {"Name": "x", "GeneratedBy": made})
    people = [f"sub-{i:02d}" for i in range(1, n + 1)]
    rows, quality = [], []
    for i, whom in enumerate(people, 1):
        (root / whom).mkdir()
        (root / f"{whom}.html").touch()
        key = f"{whom}_task-rest"
        own = {"participant_id": whom, "task": "rest", "fmmtc_key": key, "fmmtc_qc": "features only: no model"}
        if i in predicted:
            own |= {"fmmtc_probability": 0.05 * i, "fmmtc_sd": 0.03, "fmmtc_threshold": 0.5, "fmmtc_label": "responder"}
            own |= {"fmmtc_decision": ("responder", "undecided")[i % 2], "fmmtc_model": "m" * 12}
            own |= {"fmmtc_qc": "outside_reference:mean_fd" if i == 2 else "ok"}
        rows.append(own)
        quality.append(
            {
                "participant_id": whom, "task": "rest", "filename": f"{whom}/func/{key}_space-S_features.json",
                "fmmtc_status": "ok", "fmmtc_flags": "high_motion" if i == 3 else None, "fmmtc_n_frames_left": 200 + i,
                "fmmtc_minutes_left": 6.5, "fmmtc_mean_fd": 0.1 + i / 100, "fmmtc_mean_coverage": 0.97,
            }
        )  # fmt: skip
    (root / "sub-900").mkdir()
    (root / "sub-900.html").touch()
    rows.append({"participant_id": "sub-900", "task": "rest", "fmmtc_key": "sub-900_task-rest", "fmmtc_qc": TRUNCATED})
    failed = {
        "participant_id": "sub-900",
        "task": "rest",
        "filename": "sub-900/func/sub-900_task-rest_space-S_features.json",
    }
    quality.append({**failed, "fmmtc_status": "failed", "fmmtc_reason": TRUNCATED})
    rows.append({"participant_id": "sub-901", "fmmtc_qc": "missing: listed in participants.tsv, no output here"})
    models = [{"BundleDigest": "m" * 64, "title": "a model", "demo": False, "predictions": len(predicted)}]
    write_table(root / "desc-fmmtc_predictions.tsv", list(LONG_COLUMNS), rows)
    write_json(root / "desc-fmmtc_predictions.json", {"Models": models if predicted else []})
    write_table(root / "desc-fmmtc_qc.tsv", list(QUALITY_TABLE), quality)
    return root


def write_analysis(root, label="main", content=None, n=16, sites=("north", "south"), maps=True, arms=None):
    """Write an analysis of the first ``n`` people; every second one is a responder."""
    folder = root / "group" / label
    content = evaluation() if content is None else content
    write_json(folder / "evaluation.json", content)
    rng = np.random.default_rng(5)
    number = content.get("kind") == "regression"
    rows = []
    for i in range(1, n + 1):
        y = 10.0 * i if number else i % 2
        value = y + rng.normal(0, 5) if number else float(np.clip(0.35 + 0.3 * y + rng.normal(0, 0.15), 0, 1))
        row = {"participant_id": f"sub-{i:02d}", "key": f"sub-{i:02d}_task-rest", "outcome": float(y), "value": value}
        row |= {"site": sites[i % len(sites)] if sites else None, "arm": arms[i % len(arms)] if arms else None}
        rows.append(row | ({} if number else {"called_responder": round(value * 4) / 4}))
    columns = ["participant_id", "session_id", "key", "outcome", "site", "arm", "value", "value_sd"]
    write_table(folder / "predictions.tsv", columns + ([] if number else ["called_responder"]), rows)
    excluded = [
        {"participant_id": "sub-900", "key": "sub-900_task-rest", "reason": f"failed: {TRUNCATED}"},
        {"participant_id": "sub-902", "key": "sub-902", "reason": "the outcome is missing"},
    ]
    write_table(folder / "exclusions.tsv", ["participant_id", "session_id", "key", "reason"], excluded)
    if maps:
        write_map(folder / "attribution" / "parcels_mean.nii.gz")
        write_map(folder / "attribution" / "parcels_between.nii.gz", (0.2, 0.1, 0.05))
    (folder / "attribution" / "sub-01_task-rest").mkdir(parents=True)
    return folder


class Page(HTMLParser):
    """A page taken apart: ids, links, tags, all text, text of each table row, and what it would load."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.loads, self.tags, self.rows = [], [], [], [], []
        self.said, self.script, self._in_script, self._row = [], 0, False, None
        self.open, self.broken, self.labels = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.labels += [(tag, given["aria-label"])] if "aria-label" in given else []
        self.loads += [v for k, v in attrs if k in ("src", "href", "data", "poster", "action") and tag != "a"]
        self.loads += re.findall(r"url\(([^)]*)\)", given.get("style") or "")
        self._in_script = tag in ("script", "style")
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)
        if tag == "tr":
            self._row = []
        if tag in ("td", "th") and self._row is not None:
            self._row.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            if self.open[-1] != tag:
                self.broken.append((tag, self.open[-3:]))
            while self.open.pop() != tag:
                pass
        else:
            self.broken.append((tag, "closed without being open"))
        self._in_script = False
        if tag == "tr" and self._row is not None:
            self.rows.append(self._row)
            self._row = None

    def handle_data(self, data):
        if self._in_script:
            self.loads += re.findall(r"url\(([^)]*)\)", data)
            return
        self.said.append(data)
        if self._row and data.strip():
            self._row[-1] = f"{self._row[-1]} {' '.join(data.split())}".strip()

    def row_with(self, first):
        """Return the cells of the table row that begins with this text."""
        return next(row for row in self.rows if row and row[0] == first)


def sound(html):
    """Take a page apart and check what every page must be: ids once, tags closed, nothing loaded, links safe."""
    page = Page(html)
    twice = {each for each in page.ids if page.ids.count(each) > 1}
    assert not twice, f"ids used twice: {twice}"
    assert not page.broken, page.broken[:3]
    for load in page.loads:
        assert load.strip("'\"").startswith(("#", "data:")), load
    for link in page.links:
        assert re.fullmatch(r"#[\w.+-]+|sub-[A-Za-z0-9+]+\.html|group/[\w+-]+/bundle\.html", link), link
        assert not link.startswith("#") or link[1:] in page.ids, f"{link} leads nowhere"
    assert page.tags.count("script") == 1
    captions = [text for tag, text in page.labels if tag == "div"]
    assert len(captions) == len(set(captions)), "two tables have one caption"
    return page
