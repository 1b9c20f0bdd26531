"""Strict float32, inside and only inside, for encoder and head alike."""

import pytest
import torch
from brainlm_parts import CONFIG

from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig, BrainLMModality
from bids_fmmtc.modalities.numerics import strict
from bids_fmmtc.modalities.token_order import TokenOrder

STRICT = ("highest", False, False, True, False)


def state():
    cudnn = torch.backends.cudnn
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return torch.get_float32_matmul_precision(), tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def loose():
    """All that strict() turns off, as another library might have set it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    yield state()
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.benchmark = before[1]


def test_strict_inside_and_as_before_outside(loose):
    assert loose == ("high", True, True, False, True)
    with strict():
        assert state() == STRICT
    assert state() == loose
    with pytest.raises(KeyError), strict():
        raise KeyError
    assert state() == loose


def test_as_a_decorator_it_acts_at_every_call(loose):
    function = strict()(state)
    assert state() == loose
    assert function() == function() == STRICT
    assert state() == loose


def test_the_encoder_computes_strictly(loose, monkeypatch):
    import numpy as np

    class Source:
        scaled, xyz = np.ones((20, 6), np.float32), np.ones((6, 3), np.float32)

    model, seen = BrainLM(BrainLMConfig.from_json(CONFIG)).eval(), []
    cls = model.cls
    monkeypatch.setattr(model, "cls", lambda *args: seen.append(state()) or cls(*args))
    BrainLMModality(model, TokenOrder()).compute(Source(), np.array([[0, 20]], np.int32))
    assert seen == [STRICT]
    assert state() == loose
