from dataclasses import replace

import numpy as np
import pytest
import torch
from train_parts import H, R, make_cohort

from bids_fmmtc.errors import DataError
from bids_fmmtc.learning.bundle.head import build_head
from bids_fmmtc.learning.learners.inputs import Inputs, score_of, session_scores
from bids_fmmtc.modalities.connectivity import TangentReference

SHAPES = {"fc": (R, R), "brainlm": (H,)}
SPEC = {"kind": "linear", "outputs": 2, "modalities": ["brainlm", "fc"]}


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(5, windows=3)


def linear_head(seed=0):
    head = build_head(SPEC, SHAPES)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return head


def test_one_window_of_each_row_in_the_order_asked(cohort):
    inputs = Inputs(cohort, SHAPES, None, "cpu")
    batch = inputs.take([4, 0, 4], [2, 1, 0])
    assert list(batch) == ["fc", "brainlm"]
    for name, column in cohort.arrays.items():
        assert batch[name].dtype == torch.float32
        assert np.array_equal(batch[name], np.stack([column[4][2], column[0][1], column[4][0]]))
    assert inputs.windows(3) == 3


def test_connectivity_is_projected_by_the_reference_and_vectors_are_not():
    cohort = make_cohort(5, covariance=True)
    reference = TangentReference.fit(np.concatenate(cohort.arrays["fc"][:3]))
    inputs = Inputs(cohort, SHAPES, reference, "cpu")
    assert inputs.tangent is reference
    for _ in range(2):  # kept after the first time
        batch = inputs.take([4, 2], [1, 0])
        assert np.array_equal(batch["fc"][0], reference.project(cohort.arrays["fc"][4])[1])
        assert np.array_equal(batch["fc"][1], reference.project(cohort.arrays["fc"][2])[0])
        assert np.array_equal(batch["brainlm"][0], cohort.arrays["brainlm"][4][1])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"other": (H,)}, "reads other of shape .6,., the cohort holds none"),
        ({"brainlm": (7,)}, "reads brainlm of shape .7,., the cohort holds .6,."),
        ({"brainlm": (H,), "fc": (9, 9)}, "reads fc"),
    ],
)
def test_a_cohort_that_does_not_fit_is_refused(cohort, shapes, message):
    with pytest.raises(DataError, match=message):
        Inputs(cohort, shapes, None, "cpu")


def test_the_digest_tells_features_apart_and_nothing_else(cohort):
    own = Inputs(cohort, SHAPES, None, "cpu").digest()
    assert Inputs(replace(cohort, y=1 - cohort.y), SHAPES, None, "cpu").digest() == own
    changed = [array.copy() for array in cohort.arrays["fc"]]
    changed[4][2, 0, 1] += 1e-6
    other = replace(cohort, arrays={**cohort.arrays, "fc": tuple(changed)})
    assert Inputs(other, SHAPES, None, "cpu").digest() != own
    assert Inputs(other, {"brainlm": (H,)}, None, "cpu").digest() == (
        Inputs(cohort, {"brainlm": (H,)}, None, "cpu").digest()
    )


def test_scores_are_logit_differences_or_the_number():
    assert score_of(torch.tensor([[1.0, 4.0], [2.0, 0.0]])).tolist() == [3, -2]
    assert score_of(torch.tensor([[1.0], [2.0]])).tolist() == [1, 2]


def test_a_sessions_score_is_the_mean_over_its_windows_and_depends_on_nobody_else(cohort):
    head, inputs = linear_head(), Inputs(cohort, SHAPES, None, "cpu")
    scores = session_scores(head, inputs, np.arange(5))
    assert scores.dtype == np.float64
    with torch.inference_mode():
        expected = [score_of(head(inputs.take([i] * 3, range(3)))).double().mean().item() for i in range(5)]
    assert np.allclose(scores, expected, rtol=1e-6)
    assert np.array_equal(session_scores(head, inputs, [3, 1]), scores[[3, 1]])
    assert not np.allclose(scores, [score_of(head(inputs.take([i], [0]))).item() for i in range(5)])


def test_scoring_leaves_no_trace_in_a_head_that_was_being_trained(cohort):
    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.BatchNorm1d(H), torch.nn.Linear(H, 2))

        def forward(self, arrays):
            return self.inner(arrays["brainlm"])

    head = Normalised().train()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    session_scores(head, Inputs(cohort, {"brainlm": (H,)}, None, "cpu"), np.arange(5))
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())
