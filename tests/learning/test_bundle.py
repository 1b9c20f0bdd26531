import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import BundleError, DataError, MissingInputError, OutputError
from bids_fmmtc.learning import bundle as module
from bids_fmmtc.learning.bundle import EncoderReference, Predictor, encoder_folder, load_bundle, save_bundle
from bids_fmmtc.learning.calibrate import calibrated
from bids_fmmtc.learning.head import build_head
from bids_fmmtc.modalities.connectivity import TangentReference
from bids_fmmtc.recipe import Connectivity, ModalitySpec, Recipe
from bids_fmmtc.types import Features

R, H = 12, 5
SHAPES = {"brainlm": (H,), "fc": (R, R)}
FC = {"branch": "resnet18", "width": 6, "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
SPEC = {"kind": "fmmtc", "branches": {"fc": FC, "brainlm": {"branch": "identity"}}, "outputs": 2}
CARD = {
    "title": "Small",
    "intended_use": "Tests.",
    "limits": "All.",
    "data": "None.",
    "demo": False,
    "contact": "a@b",
    "n": {"train": 3},
}
ENCODER_SHA256 = hashlib.sha256(b"weights").hexdigest()
MODALITIES = (ModalitySpec("brainlm", ENCODER_SHA256, {"hidden": H}), ModalitySpec("fc"))


def make_encoder(folder, name="model.safetensors", content=b"weights"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 5}')
    (folder / name).write_bytes(content)
    return folder


def parts(encoder, /, **changes):
    torch.manual_seed(0)
    given = {
        "recipe": Recipe(modalities=MODALITIES),
        "shapes": SHAPES,
        "head_spec": SPEC,
        "head": build_head(SPEC, SHAPES),
        "calibration": {"kind": "platt", "slope": 1.5, "intercept": -0.25},
        "conformal": {"alpha": 0.1, "quantile": 0.7},
        "reference": {"tsnr": {"low": 20.0, "high": 90.0}},
        "card": CARD,
        "encoders": {"brainlm": encoder},
    }
    return {**given, **changes}


def make_tangent():
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((4, R, 2 * R))
    return TangentReference.fit(spread @ np.swapaxes(spread, 1, 2) / (2 * R))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / "brainlm")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, encoder):
    """A bundle with every kind of file; tests copy it before they change it."""
    recipe = Recipe(modalities=MODALITIES, connectivity=Connectivity("tangent"))
    root = tmp_path_factory.mktemp("bundle") / "model"
    return save_bundle(root, **parts(encoder, recipe=recipe, tangent=make_tangent()), include_encoders=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, encoder):
    return save_bundle(tmp_path_factory.mktemp("plain") / "model", **parts(encoder))


@pytest.fixture(scope="module")
def predictor(plain):
    return Predictor(plain)


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved.root, tmp_path / "copy"))


def features(bundle, windows=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((windows, R, 2 * R))
    arrays = {
        "brainlm": rng.standard_normal((windows, H)).astype(np.float32),
        "fc": (spread @ np.swapaxes(spread, 1, 2) / (2 * R)).astype(np.float32),
        "unused": np.zeros((windows, 1), np.float32),
    }
    bounds = np.stack([np.arange(windows) * 10, np.arange(windows) * 10 + 10], axis=1).astype(np.int32)
    given = {"key": f"sub-1_run-{seed}", "windows": bounds, "arrays": arrays, "quality": {"tsnr": 50.0}}
    return Features(**{**given, "digest": bundle.recipe.digest, **changes})


def names(folder):
    return [path.name for path in folder.iterdir()]


def restate(root, change):
    """Change bundle.json as someone would who also corrects its checksum."""
    document = json.loads((root / "bundle.json").read_text())
    change(document)
    (root / "bundle.json").write_bytes(module._rendered(document))


# ------------------------------------------------------------------------------------------------------------- saving


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
        *("bundle.json", "head.safetensors", "tangent.safetensors", "README.md"),
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
        ({"reference": {"x": {"low": 1}}}, "reference"),
        ({"card": {**CARD, "demo": "no"}}, "demo"),
        ({"card": {**CARD, "limits": ""}}, "limits"),
        ({"card": {**CARD, "n": object()}}, "plain JSON"),
        ({"encoders": {}}, "weights_sha256"),
        ({"encoders": {"brainlm": EncoderReference("0" * 64)}}, "weights_sha256"),
        ({"encoders": {"brainlm": EncoderReference("abc")}}, "sha256"),
        ({"encoders": {"../up": EncoderReference(ENCODER_SHA256)}}, "plain name"),
        ({"encoders": {"brainlm": Path("/nonexistent")}}, "needs config.json"),
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


# ------------------------------------------------------------------------------------------------------------ loading


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found(copy, saved, data):
    name = data.draw(st.sampled_from(sorted([*saved.files, "bundle.json"])))
    original = (saved.root / name).read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    flipped = bytearray(original)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        (copy / name).write_bytes(flipped)
        with pytest.raises(BundleError):
            load_bundle(copy)
    finally:
        (copy / name).write_bytes(original)
    assert load_bundle(copy).digest == saved.digest


@pytest.mark.slow
def test_every_byte_of_bundle_json_matters(copy):
    original = (copy / "bundle.json").read_bytes()
    for place in range(len(original)):
        (copy / "bundle.json").write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        with pytest.raises(BundleError):
            load_bundle(copy)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_truncated_and_grown_files_are_found(copy, saved, data):
    name = data.draw(st.sampled_from(sorted([*saved.files, "bundle.json"])))
    original = (saved.root / name).read_bytes()
    cut = data.draw(st.integers(0, len(original) - 1))
    try:
        for content in (original[:cut], original + b" "):
            (copy / name).write_bytes(content)
            with pytest.raises(BundleError):
                load_bundle(copy)
    finally:
        (copy / name).write_bytes(original)


@pytest.mark.parametrize(
    "name", ["README.md", "head.safetensors", "tangent.safetensors", "encoders/brainlm/config.json", "bundle.json"]
)
def test_deleted_renamed_replaced(copy, name):
    file = copy / name
    file.rename(copy / "elsewhere")
    with pytest.raises(BundleError, match=name):
        load_bundle(copy)
    shutil.copy(copy / "elsewhere", copy.parent / "outside")
    (copy / "elsewhere").unlink()
    for target in (copy.parent / "outside", "../outside", "/dev/zero", "nowhere", file.name):
        if not os.path.lexists(file):
            file.symlink_to(target if "/" not in name or Path(target).is_absolute() else "../../../outside")
        with pytest.raises(BundleError, match=name):
            load_bundle(copy)
        file.unlink()
    os.mkfifo(file)
    with pytest.raises(BundleError, match=name):
        load_bundle(copy)
    file.unlink()
    file.mkdir()
    with pytest.raises(BundleError, match=name):
        load_bundle(copy)


def test_links_inside_the_bundle_and_to_it_are_followed(copy, saved):
    (copy / ".store").mkdir()
    (copy / "head.safetensors").rename(copy / ".store" / "object")
    (copy / "head.safetensors").symlink_to(".store/object")
    (copy.parent / "link").symlink_to(copy)
    assert load_bundle(copy.parent / "link").digest == saved.digest


def test_linked_encoder_folder_must_stay_inside(copy, saved):
    (copy / "encoders" / "brainlm").rename(copy.parent / "brainlm")
    (copy / "encoders" / "brainlm").symlink_to(copy.parent / "brainlm")
    with pytest.raises(BundleError, match=r"config\.json leads outside.*model\.safetensors leads outside"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["extra.txt", "encoders/brainlm/pytorch_model.bin", "sub/deep/x.pkl"])
def test_unlisted_files_are_refused(copy, name):
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).touch()
    with pytest.raises(BundleError, match=f"{name} does not belong"):
        load_bundle(copy)


def test_unlisted_folder_link_is_refused_hidden_entries_and_empty_folders_are_not(copy, saved):
    (copy / ".DS_Store").touch()
    (copy / ".hidden").mkdir()
    (copy / ".hidden" / "file").touch()
    (copy / "empty").mkdir()
    assert load_bundle(copy).digest == saved.digest
    (copy / "data").symlink_to("/")
    with pytest.raises(BundleError, match="data does not belong"):
        load_bundle(copy)


def test_all_bad_files_are_named_at_once(copy):
    (copy / "README.md").unlink()
    (copy / "tangent.safetensors").write_bytes(b"")
    (copy / "new.txt").touch()
    with pytest.raises(BundleError) as caught:
        load_bundle(copy)
    for part in ("README.md is missing", "tangent.safetensors holds 0 bytes, expected", "new.txt does not belong"):
        assert part in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 65


def test_what_is_not_a_bundle(tmp_path, encoder):
    with pytest.raises(MissingInputError, match="does not exist"):
        load_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        load_bundle(tmp_path)
    with pytest.raises(BundleError, match="--encoder-weights"):
        load_bundle(encoder)
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        load_bundle(encoder / "config.json")
    for text, message in (
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\udcff", "not JSON"),
        ("[]", "does not say format"),
        ('"x"', "does not say format"),
        ('{"format": "other"}', "does not say format"),
        (f'{{"format": "{module.FORMAT}"}}', "version None"),
        (f'{{"format": "{module.FORMAT}", "format_version": 2}}', "version 2, this program reads 1"),
        (f'{{"format": "{module.FORMAT}", "format_version": 1, "zoo": 1}}', r"lacks.*unknown fields \['zoo'\]"),
    ):
        (tmp_path / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(BundleError, match=message):
            load_bundle(tmp_path)


def test_hand_edits_are_found_even_if_they_mean_the_same(copy):
    path = copy / "bundle.json"
    text = path.read_text()
    for edited in (
        text.replace('"threshold": 0.5', '"threshold": 0.9'),
        text.replace('"threshold": 0.5', '"threshold": 0.50'),
        text.replace('"threshold": 0.5', '"threshold": NaN'),
        text.replace('"threshold": 0.5', '"threshold": 0.9,\n "threshold": 0.5'),
        text.rstrip(),
    ):
        assert edited != text
        path.write_text(edited)
        with pytest.raises(BundleError):
            load_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["files"].update({"../x": {"bytes": 0, "sha256": "0" * 64}}),
        lambda d: d["files"].update({"/etc/passwd": {"bytes": 0, "sha256": "0" * 64}}),
        lambda d: d["files"].pop("README.md"),
        lambda d: d["files"]["README.md"].update(more=1),
        lambda d: d["files"]["encoders/brainlm/model.safetensors"].update(sha256="0" * 64),
        lambda d: d["encoders"].update({"../../x": d["encoders"].pop("brainlm")}),
        lambda d: d["encoders"]["brainlm"].update(sha256="0" * 64),
        lambda d: d["encoders"]["brainlm"].update(sha256=5),
        lambda d: d["encoders"]["brainlm"].update(included="yes"),
        lambda d: d["encoders"]["brainlm"].pop("sha256"),
        lambda d: d.update(encoders=[]),
        lambda d: d["recipe"].update(scaling="sideways"),
        lambda d: d["recipe"].update(zoo=1),
        lambda d: d["recipe"]["modalities"].pop(),
        lambda d: d["recipe"]["modalities"][0].update(weights_sha256="0" * 64),
        lambda d: d.update(recipe=None),
        lambda d: d.update(shapes=None),
        lambda d: d.update(shapes={"brainlm": [5], "fc": 12}),
        lambda d: d["shapes"].update(fc=[12, "12"]),
        lambda d: d["shapes"].update(fc=[12, 0]),
        lambda d: d.update(head=None),
        lambda d: d["head"].update(kind=None),
        lambda d: d["head"].update(outputs=3),
        lambda d: d["head"]["branches"].pop("fc"),
        lambda d: d["head"].update(branches=5),
        lambda d: d.update(classes="ab "),
        lambda d: d.update(classes=["a", ""]),
        lambda d: d.update(classes=None),
        lambda d: d.update(threshold=-0.1),
        lambda d: d.update(threshold="0.5"),
        lambda d: d.update(card=None),
        lambda d: d["card"].pop("demo"),
        lambda d: d.update(files=[]),
        lambda d: d["files"].update({"README.md": None}),
        lambda d: d.update(conformal=3),
        lambda d: d.update(reference=3),
        lambda d: d.update(calibration=None),
    ],
)
def test_malformed_content_with_a_right_checksum_is_a_bundle_error(copy, change):
    restate(copy, change)
    with pytest.raises(BundleError, match="bundle"):
        load_bundle(copy)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.sampled_from(module._FIELDS[2:-1]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_any_json_in_any_field_is_a_bundle_error_or_loads(copy, field, value):
    original = (copy / "bundle.json").read_bytes()
    try:
        restate(copy, lambda d: d.update({field: value}))
        load_bundle(copy)
    except BundleError:
        pass
    finally:
        (copy / "bundle.json").write_bytes(original)


def test_verification_needs_no_torch(saved):
    code = (
        "import sys; from pathlib import Path; from bids_fmmtc.learning.bundle import load_bundle;"
        "load_bundle(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'sklearn', 'nilearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(saved.root)], check=True)


# ----------------------------------------------------------------------------------------------------------- encoders


def test_included_encoder_wins(saved, tmp_path):
    assert encoder_folder(saved, "brainlm", tmp_path / "none") == saved.root / "encoders" / "brainlm"


def test_users_encoder_is_verified(plain, encoder, tmp_path):
    assert encoder_folder(plain, "brainlm", encoder) == encoder
    assert encoder_folder(plain, "brainlm", encoder.parent) == encoder
    pickled = make_encoder(tmp_path / "pickled", "pytorch_model.bin")
    assert encoder_folder(plain, "brainlm", pickled) == pickled
    wrong = make_encoder(tmp_path / "wrong", content=b"other")
    (tmp_path / "bare").mkdir()
    for folder, error, message in (
        (None, BundleError, "does not include"),
        (wrong, BundleError, hashlib.sha256(b"other").hexdigest()),
        (tmp_path / "bare", BundleError, "needs config.json"),
        (tmp_path / "none", MissingInputError, "does not exist"),
    ):
        with pytest.raises(error, match=message) as caught:
            encoder_folder(plain, "brainlm", folder)
        for part in ("--encoder-weights DIR", ENCODER_SHA256, "CC BY-NC-ND 4.0"):
            assert part in caught.value.hint
    with pytest.raises(BundleError, match="no encoder 'fc'; it has brainlm"):
        encoder_folder(plain, "fc", encoder)


# ---------------------------------------------------------------------------------------------------------- predicting


def test_prediction_is_the_mean_of_calibrated_windows(plain, predictor, encoder):
    runs = [features(plain, 3, seed=1), features(plain, 2, seed=2)]
    prediction = predictor.predict("sub-1", runs, flags=("motion",))
    head = parts(encoder)["head"].eval()
    with torch.inference_mode():
        logits = np.concatenate([head({n: torch.tensor(r.arrays[n]) for n in SHAPES}).numpy() for r in runs])
    expected = calibrated(logits, plain.calibration)
    np.testing.assert_allclose(prediction.per_window, expected, atol=1e-6)
    assert prediction.probability == pytest.approx(expected.mean(), abs=1e-6)
    assert prediction.label == plain.classes[int(prediction.probability >= 0.5)]
    assert prediction.digest == plain.digest
    assert prediction.flags == ("motion",)
    assert prediction.prediction_set
    assert prediction.key == "sub-1"


def test_prediction_is_repeatable_and_windows_do_not_touch_each_other(plain, predictor):
    whole = features(plain, 6)
    first = predictor.predict("s", [whole])
    state = torch.get_rng_state()
    second = Predictor(plain).predict("s", [whole])
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(first.per_window, second.per_window)
    assert first.probability == second.probability
    order = [4, 0, 5]
    some = features(plain, windows=3, arrays={n: a[order] for n, a in whole.arrays.items()})
    np.testing.assert_array_equal(predictor.predict("s", [some]).per_window, first.per_window[order])
    runs = [features(plain, windows=1, arrays={n: a[i : i + 1] for n, a in whole.arrays.items()}) for i in range(6)]
    np.testing.assert_array_equal(predictor.predict("s", runs).per_window, first.per_window)


def test_tangent_is_projected_with_the_bundles_reference(saved, encoder):
    run = features(saved)
    prediction = Predictor(saved).predict("s", [run])
    projected = dict(run.arrays, fc=make_tangent().project(run.arrays["fc"]))
    head = parts(encoder)["head"].eval()
    with torch.inference_mode():
        logits = head({n: torch.tensor(projected[n]) for n in SHAPES}).numpy()
    np.testing.assert_allclose(prediction.per_window, calibrated(logits, saved.calibration), atol=1e-5)


def test_threshold_belongs_to_the_second_class(plain, predictor):
    run = features(plain)
    p = predictor.predict("s", [run]).probability
    for threshold, label in ((p, "responder"), (np.nextafter(p, 1), "non-responder")):
        bundle = dataclasses.replace(plain, threshold=threshold)
        assert Predictor(bundle).predict("s", [run]).label == label


def test_flags_and_missing_conformal(plain):
    bundle = dataclasses.replace(plain, card={**CARD, "demo": True}, conformal=None)
    runs = [features(plain, quality={"tsnr": 5}), features(plain, quality={}), features(plain, quality={"tsnr": 5})]
    prediction = Predictor(bundle).predict("s", runs, flags=("z", "demo_model"))
    assert prediction.flags == ("z", "demo_model", "outside_reference:tsnr", "unknown:tsnr")
    assert prediction.prediction_set is None
    assert Predictor(dataclasses.replace(bundle, reference=None)).predict("s", runs).flags == ("demo_model",)


def test_features_of_another_recipe_or_shape_are_refused(plain, predictor):
    other = features(plain, digest="f" * 64)
    with pytest.raises(BundleError, match="come from recipe ffff"):
        predictor.predict("s", [features(plain), other])
    assert predictor.predict("s", [other], expected_digest="f" * 64)
    with pytest.raises(BundleError, match="come from recipe"):
        predictor.predict("s", [features(plain)], expected_digest="f" * 64)
    good = features(plain).arrays
    for arrays in ({"fc": good["fc"]}, {**good, "brainlm": good["brainlm"][:, :4]}):
        with pytest.raises(BundleError, match="brainlm is of shape"):
            predictor.predict("s", [features(plain, arrays=arrays)])
    with pytest.raises(DataError, match="no features"):
        predictor.predict("s", [])


def test_weights_changed_after_loading_are_refused(copy):
    bundle = load_bundle(copy)
    data = bytearray((copy / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "head.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match="checksum"):
        Predictor(bundle)


def test_weights_that_do_not_fit_the_head_are_refused(copy):
    restate(copy, lambda d: d["head"]["branches"]["fc"].update(width=7))
    with pytest.raises(BundleError, match=r"classifier\.weight"):
        Predictor(load_bundle(copy))
