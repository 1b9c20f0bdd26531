import hashlib
from pathlib import Path

import pytest
import torch
from bundle_parts import (
    CARD,
    ENCODER_SHA256,
    MODALITIES,
    SHAPES,
    SPEC,
    make_encoder,
    make_novelty,
    make_tangent,
    names,
    parts,
)

from bids_fmmtc.errors import BundleError, OutputError
from bids_fmmtc.learning.bundle.calibrate import Limits
from bids_fmmtc.learning.bundle.load import EncoderReference, load_bundle
from bids_fmmtc.learning.bundle.save import save_bundle
from bids_fmmtc.recipe import Connectivity, Recipe


def test_what_is_saved_is_loaded(saved):
    again = load_bundle(saved.root)
    assert again == saved
    assert again.recipe == Recipe(modalities=MODALITIES, connectivity=Connectivity("tangent"))
    assert again.shapes == SHAPES
    assert list(again.head["branches"]) == ["fc", "brainlm"]  # the order of concatenation, not of the alphabet
    assert again.classes == ("non-responder", "responder")
    assert again.encoders == {"brainlm": EncoderReference(ENCODER_SHA256, included=True)}
    assert not again.demo
    assert again.digest == hashlib.sha256((saved.root / "bundle.json").read_bytes()).hexdigest()
    found = {p.relative_to(saved.root).as_posix() for p in saved.root.rglob("*") if p.is_file()}
    assert found == {
        *("bundle.json", "head.safetensors", "tangent.safetensors", "novelty.safetensors", "README.md"),
        *("encoders/brainlm/config.json", "encoders/brainlm/model.safetensors"),
    }
    assert names(saved.root.parent) == ["model"]


def test_same_input_same_bytes(plain, encoder, tmp_path):
    turned = {**CARD}
    turned = dict(reversed(turned.items()))
    again = save_bundle(tmp_path / "new" / "again", **parts(encoder, card=turned))
    assert again.digest == plain.digest
    for name in (*plain.files, "bundle.json"):
        assert (again.root / name).read_bytes() == (plain.root / name).read_bytes()


def test_model_card(saved, plain, encoder, tmp_path):
    text = (plain.root / "README.md").read_text()
    for part in ("# Small", "## Intended use\n\nTests.", "## Contact\n\na@b", plain.recipe.digest, "CC BY-NC-ND 4.0"):
        assert part in text
    assert ENCODER_SHA256 in text
    assert "Demonstration" not in text
    assert "forbids" not in (saved.root / "README.md").read_text()
    demo = save_bundle(tmp_path / "demo", **parts(encoder, card={**CARD, "demo": True}))
    assert demo.demo
    assert "Demonstration only" in (demo.root / "README.md").read_text()


def test_novelty_brings_its_limits(saved, plain, encoder, tmp_path):
    assert saved.reference == {
        "tsnr": Limits(90.0, 20.0),
        "embedding_brainlm": Limits(high=1.0),
        "embedding_fc": Limits(high=1.0),
    }
    only = save_bundle(tmp_path / "a", **parts(encoder, reference=None, novelty={"fc": make_novelty()["fc"]}))
    assert only.reference == {"embedding_fc": Limits(high=1.0)}
    assert save_bundle(tmp_path / "b", **parts(encoder, novelty={})).digest == plain.digest


def test_state_dict_and_encoder_reference_will_do(plain, encoder, tmp_path):
    state = parts(encoder)["head"].state_dict()
    again = save_bundle(tmp_path / "a", **parts(EncoderReference(ENCODER_SHA256), head=state))
    assert again.digest == plain.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "a")}, "distinct"),
        ({"classes": ("a",)}, "distinct"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": float("nan")}, "plain JSON"),
        ({"calibration": {"kind": "spline"}}, "calibration"),
        ({"conformal": {"alpha": 0.1}}, "conformal"),
        ({"reference": {"x": {"low": "1"}}}, "reference"),
        ({"reference": {"embedding_fc": {"high": 1.0}}}, r"novelty\.safetensors"),
        ({"reference": {"embedding_t1": {"high": 1.0}}}, "embedding_t1 is of no modality"),
        ({"novelty": {"t1": make_novelty()["fc"]}}, "novelty of t1, but modalities are brainlm, fc"),
        ({"novelty": {"brainlm": make_novelty()["fc"]}}, r"brainlm\.mean must be float32 \(5,\)"),
        ({"card": {**CARD, "demo": "no"}}, "demo"),
        ({"card": {**CARD, "limits": ""}}, "limits"),
        ({"card": {**CARD, "n": object()}}, "plain JSON"),
        ({"encoders": {}}, "weights_sha256"),
        ({"encoders": {"brainlm": EncoderReference("0" * 64)}}, "weights_sha256"),
        ({"encoders": {"brainlm": EncoderReference("abc")}}, "sha256"),
        ({"encoders": {"../up": EncoderReference(ENCODER_SHA256)}}, "plain name"),
        ({"encoders": {"brainlm": Path("/nonexistent")}}, "does not exist"),
        ({"recipe": Recipe()}, "modalities fc, shapes brainlm, fc"),
        ({"recipe": Recipe(modalities=MODALITIES, connectivity=Connectivity("tangent"))}, "tangent.safetensors"),
        ({"tangent": make_tangent()}, "tangent.safetensors"),
        ({"head": {}}, "weights are missing"),
        ({"head_spec": {**SPEC, "outputs": 3}}, "classifier.weight"),
        ({"head_spec": {"kind": "none"}}, "no head"),
        ({"shapes": {**SHAPES, "brainlm": (7,)}}, "classifier.weight"),
    ],
)
def test_parts_that_do_not_fit_leave_nothing_behind(encoder, tmp_path, change, message):
    with pytest.raises(BundleError, match=message) as caught:
        save_bundle(tmp_path / "model", **parts(encoder, **change))
    assert ".tmp" not in str(caught.value)
    assert names(tmp_path) == []


def test_weights_must_be_finite_and_of_the_right_type(encoder, tmp_path):
    state = parts(encoder)["head"].state_dict()
    bias = state["classifier.bias"]
    for bad, message in ((bias * torch.nan, "finite"), (bias.double(), "float64")):
        with pytest.raises(BundleError, match=message):
            save_bundle(tmp_path / "model", **parts(encoder, head={**state, "classifier.bias": bad}))


def test_pickled_encoder_is_hashed_but_not_included(tmp_path):
    folder = make_encoder(tmp_path / "brainlm", "pytorch_model.bin")
    assert save_bundle(tmp_path / "a", **parts(folder)).encoders["brainlm"].sha256 == ENCODER_SHA256
    for encoder in (folder, EncoderReference(ENCODER_SHA256)):
        with pytest.raises(BundleError, match="not a pickle"):
            save_bundle(tmp_path / "b", **parts(encoder), include_encoders=True)


def test_only_an_intact_bundle_is_overwritten_and_only_on_demand(encoder, tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    first = save_bundle(root, **parts(encoder))  # an empty folder may be there
    with pytest.raises(OutputError, match="not empty"):
        save_bundle(root, **parts(encoder))
    second = save_bundle(root, **parts(encoder, threshold=0.25), overwrite=True)
    assert second.digest != first.digest
    assert load_bundle(root).threshold == 0.25
    (root / ".git").mkdir()
    (root / ".git" / "config").touch()
    with pytest.raises(OutputError, match=r"\.git/config"):
        save_bundle(root, **parts(encoder), overwrite=True)
    (root / "thesis.docx").touch()
    with pytest.raises(OutputError, match=r"thesis\.docx"):
        save_bundle(root, **parts(encoder), overwrite=True)
    with pytest.raises(OutputError, match="not a folder"):
        save_bundle(root / "README.md", **parts(encoder), overwrite=True)
    assert load_bundle_without(root, "thesis.docx") == second
    assert names(tmp_path) == ["model"]


def load_bundle_without(root, name):
    (root / name).unlink()
    return load_bundle(root)


def test_a_failed_write_keeps_the_old_bundle(encoder, tmp_path, monkeypatch):
    first = save_bundle(tmp_path / "model", **parts(encoder))
    rename = Path.rename

    def refuse(self, target):
        if self.suffix == ".tmp":
            raise OSError("disk on fire")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="disk on fire"):
        save_bundle(tmp_path / "model", **parts(encoder, threshold=0.1), overwrite=True)
    assert load_bundle(first.root) == first
    assert names(tmp_path) == ["model"]
