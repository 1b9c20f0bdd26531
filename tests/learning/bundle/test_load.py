import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_parts import ENCODER_SHA256, make_encoder, restate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import BundleError, MissingInputError
from bids_fmmtc.learning.bundle.load import FIELDS, FORMAT, encoder_folder, load_bundle

# -------------------------------------------------------------------------------------------------------------- loading


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
    "name",
    [
        *("README.md", "head.safetensors", "tangent.safetensors", "novelty.safetensors"),
        *("encoders/brainlm/config.json", "bundle.json"),
    ],
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
        (f'{{"format": "{FORMAT}"}}', "version None"),
        (f'{{"format": "{FORMAT}", "format_version": 2}}', "version 2, this program reads 1"),
        (f'{{"format": "{FORMAT}", "format_version": 1, "zoo": 1}}', r"lacks.*unknown fields \['zoo'\]"),
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
        lambda d: d.update(reference=None),  # the file of distances then belongs to nothing
        lambda d: d["reference"].update(embedding_t1={"high": 1.0}),
        lambda d: d["reference"].update(embedding_fc=1.0),
        lambda d: d["conformal"].update(quantile=0.5),
        lambda d: d.update(calibration=None),
        lambda d: d.update(unit=None),
    ],
)
def test_malformed_content_with_a_right_checksum_is_a_bundle_error(copy, change):
    restate(copy, change)
    with pytest.raises(BundleError, match="bundle"):
        load_bundle(copy)


def test_what_was_fitted_per_window_is_refused(copy):
    assert json.loads((copy / "bundle.json").read_text())["unit"] == "session"
    restate(copy, lambda d: d.update(unit="window"))
    with pytest.raises(BundleError, match="must be fitted per session, found 'window'"):
        load_bundle(copy)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.sampled_from(FIELDS[2:-1]),
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
        "import sys; from pathlib import Path; from bids_fmmtc.learning.bundle.load import load_bundle;"
        "load_bundle(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'sklearn', 'nilearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(saved.root)], check=True)


# ------------------------------------------------------------------------------------------------------------- encoders


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
