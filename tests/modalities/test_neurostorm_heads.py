"""The published heads against the reference's outputs."""

import pytest
import torch
from neurostorm_parts import TOLERANCE, fixture

from bids_fmmtc.modalities.neurostorm_heads import ContrastiveHead, HiddenHead, MeanHead, TransformerHead

HEADS = {
    "cls_v1_binary": lambda: MeanHead(96, 1),
    "cls_v1_5class": lambda: MeanHead(96, 5),
    "cls_v2_binary": lambda: HiddenHead(96, 1),
    "cls_v3_4class": lambda: TransformerHead(96, 12, 4, heads=4, layers=2),
    "reg": lambda: MeanHead(96, 1),
    "emb": lambda: ContrastiveHead(96, 16),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_the_reference_s(name):
    state, expected = fixture("heads_state"), fixture("heads_out")
    head = HEADS[name]().eval()
    own = {
        k.removeprefix(f"{name}.").removeprefix(
            "head.",
        ): v
        for k, v in state.items()
        if k.startswith(f"{name}.")
    }
    head.load_state_dict(own)
    with torch.no_grad():
        torch.testing.assert_close(head(expected["input"]), expected[name], atol=TOLERANCE, rtol=0)
        if f"{name}.features" in expected:
            features = head.features(expected["input"])
            torch.testing.assert_close(features, expected[f"{name}.features"], atol=TOLERANCE, rtol=0)


def test_published_sizes():
    def count(head):
        return sum(p.numel() for p in head.parameters())

    assert count(MeanHead(288, 1)) == 289
    assert count(HiddenHead(288, 1)) == 334_081
    assert count(ContrastiveHead(288)) == 37_120
