"""Series re-opened from derivatives, and the encoder that was never trained."""

import numpy as np
import pytest
from group.parts import R, make_features, person_series, study, write_inputs

from bids_fmmtc.cli import parse
from bids_fmmtc.errors import DataError
from bids_fmmtc.group.scans import load_encoders, sample, scans_of, with_amplitude, with_random_encoders
from bids_fmmtc.plan import weights_folder


def test_windows_are_those_the_features_were_made_of(made):
    scans = scans_of([made / "out"])
    windows = scans.windows("sub-00_task-rest")
    assert windows.shape == (2, 40, R)
    assert scans.windows("sub-00_task-rest", 1).shape == (1, 40, R)
    cohort = study(made).cohort
    # Each window's connectivity is moved so that their mean is that of all frames: what tells windows apart stays.
    one, other = cohort.arrays["fc"][cohort.keys.index("sub-00_task-rest")]
    z = [np.arctanh(np.corrcoef(window.T)[0, 3]) for window in windows]
    assert one[0, 3] - other[0, 3] == pytest.approx(z[0] - z[1], abs=1e-5)
    with pytest.raises(DataError, match="sub-23"):
        scans.windows("sub-23_task-rest")


def test_the_atlas_comes_with_the_features(made):
    atlas = scans_of([made / "out"]).atlas
    assert atlas.names == tuple(f"p{j:02d}" for j in range(R))
    assert atlas.networks.count("B") == 4


def test_without_an_encoder_the_study_stays_as_it_is(made):
    found = study(made)
    settings = parse([str(made), str(made / "out"), "group"], {})
    assert load_encoders(found, lambda name: weights_folder(name, None, settings)) == ()
    assert with_random_encoders(found, (), scans_of) is found


@pytest.mark.slow
def test_an_untrained_encoder_sees_the_same_windows(tmp_path):
    import json

    import torch
    from safetensors.torch import save_file

    from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig
    from bids_fmmtc.synthetic import ENCODER

    root = write_inputs(tmp_path, n=8)
    encoder = root / "encoder"
    encoder.mkdir()
    config = {**ENCODER, "num_timepoints_per_voxel": 40, "num_brain_voxels": R}
    (encoder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(BrainLM(BrainLMConfig.from_json(config)).state_dict(), encoder / "model.safetensors")
    recipe = json.loads((root / "recipe.json").read_text())
    (root / "recipe.json").write_text(json.dumps({**recipe, "modalities": [{"name": "brainlm"}, {"name": "fc"}]}))
    make_features(root, "--encoder-weights", encoder)
    words = ("--encoder-weights", str(encoder), "--folds", "2", "--inner-folds", "2")
    found = study(root, *words)
    given = parse([str(root), str(root / "out"), "group", "--encoder-weights", str(encoder)], {})
    (loaded,) = load_encoders(found, lambda name: weights_folder(name, None, given))
    scans = scans_of([root / "out"])
    # The pretrained encoder gives back what is cached; the untrained one something else of the same shape.
    np.testing.assert_allclose(
        scans.encoded(found.cohort.keys[0], loaded), found.cohort.arrays["brainlm"][0], atol=2e-5
    )
    more = with_random_encoders(found, (loaded,), scans_of).cohort.arrays["brainlm_random"]
    again = with_random_encoders(found, (loaded,), scans_of).cohort.arrays["brainlm_random"]
    for own, one, two in zip(found.cohort.arrays["brainlm"], more, again, strict=True):
        assert own.shape == one.shape
        assert np.abs(own - one).max() > 1e-3
        np.testing.assert_array_equal(one, two)


def test_a_sample_holds_as_many_of_each_class(made):
    cohort = study(made).cohort
    assert sample(cohort, 50, 0) == list(range(23))
    chosen = sample(cohort, 8, 0)
    assert len(set(chosen)) == 8
    assert cohort.y[chosen].sum() == 4
    assert chosen == sample(cohort, 8, 0)


def test_amplitude_comes_from_the_stored_series(root):
    found = study(root)
    more = with_amplitude(found)
    assert set(more.cohort.arrays) == {*found.cohort.arrays, "log_variance", "autocorrelation"}
    x = person_series(0, responder=True).astype(np.float32).astype(np.float64)
    x -= x.mean(axis=0)
    row = more.cohort.keys.index("sub-00_task-rest")
    logs = np.log((x**2).mean(axis=0))
    np.testing.assert_allclose(more.cohort.arrays["log_variance"][row][0], logs - logs.mean(), atol=1e-4)
    memory = (x[1:] * x[:-1]).mean(axis=0) / (x**2).mean(axis=0)
    np.testing.assert_allclose(more.cohort.arrays["autocorrelation"][row][0], memory, atol=1e-4)


def test_without_series_there_is_no_amplitude(root, caplog):
    for table in (root / "out").rglob("sub-00*_timeseries.tsv"):
        table.unlink()
    found = study(root)
    assert with_amplitude(found) is found
    assert "No amplitude of parcels" in caplog.text
