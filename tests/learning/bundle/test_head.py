import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_fmmtc.errors import BundleError
from bids_fmmtc.learning.bundle import head as module
from bids_fmmtc.learning.bundle.head import BRANCHES, build_head

SMALL = {"branch": "resnet18", "width": 6, "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
SHAPES = {"fc": (12, 12), "brainlm": (5,)}
LINEAR = {"kind": "linear", "outputs": 2, "modalities": ["brainlm", "fc"]}


def spec(**changes):
    return {"kind": "fmmtc", "branches": {"brainlm": {"branch": "identity"}, "fc": {**SMALL, **changes}}, "outputs": 2}


def inputs(batch=3, r=12, h=5):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(batch, r, r, generator=generator)
    return {"brainlm": torch.randn(batch, h, generator=generator), "fc": matrix + matrix.mT}


def test_logits_are_the_linear_layer_over_the_branches_in_the_order_of_the_spec():
    torch.manual_seed(0)
    head = build_head(spec(), SHAPES).eval()
    x = inputs()
    with torch.inference_mode():
        joined = torch.cat([x["brainlm"], head.branches["fc"](x["fc"])], dim=1)
        expected = joined @ head.classifier.weight.T + head.classifier.bias
        torch.testing.assert_close(head(x), expected)
    assert head.order == ("brainlm", "fc")
    assert head(x).shape == (3, 2)
    assert head.classifier.in_features == 11


def test_order_of_the_shapes_does_not_matter_that_of_the_spec_does():
    torch.manual_seed(0)
    one = build_head(spec(), SHAPES)
    torch.manual_seed(0)
    two = build_head(spec(), dict(reversed(SHAPES.items())))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    turned = {**spec(), "branches": dict(reversed(spec()["branches"].items()))}
    assert build_head(turned, SHAPES).order == ("fc", "brainlm")


def test_published_layout_and_size():
    full = {"branch": "resnet18", "channels": 3}
    branch = build_head({"kind": "fmmtc", "branches": {"fc": full}}, {"fc": (424, 424)}).branches["fc"]
    assert sum(p.numel() for p in branch.parameters()) == 11_307_840  # torchvision's resnet18 with fc Linear(512, 256)
    shapes = {torchvision_name(name): tuple(t.shape) for name, t in branch.state_dict().items()}
    assert len(shapes) == 122
    for name, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.weight": (128,),
        "layer3.1.bn2.bias": (256,),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
        "fc.1.weight": (256, 512),
    }.items():
        assert shapes[name] == shape
    assert not any(name.startswith("layer1.0.downsample") for name in shapes)
    strides = [branch.body.encoder.stages[s].layers[0].layer[0].convolution.stride for s in range(4)]
    assert strides == [(1, 1), (2, 2), (2, 2), (2, 2)]


def torchvision_name(name):
    """Our name -> torchvision's, as in spec/brainlm-fmmtc.md section 3.1."""
    kinds = {"convolution": ("conv", "0"), "normalization": ("bn", "1")}
    parts = name.split(".")
    if parts[0] == "projection":
        return f"fc.1.{parts[1]}"
    if parts[1] == "embedder":
        return f"{kinds[parts[3]][0]}1.{parts[4]}"
    layer = f"layer{int(parts[3]) + 1}.{parts[5]}"
    if parts[6] == "shortcut":
        return f"{layer}.downsample.{kinds[parts[7]][1]}.{parts[8]}"
    return f"{layer}.{kinds[parts[8]][0]}{int(parts[7]) + 1}.{parts[9]}"


def test_one_channel_with_summed_first_layer_equals_three_equal_channels():
    torch.manual_seed(1)
    three = build_head(spec(channels=3, embedding_size=16, hidden_sizes=[16, 16, 16, 16]), SHAPES).eval()
    one = build_head(spec(channels=1, embedding_size=16, hidden_sizes=[16, 16, 16, 16]), SHAPES).eval()
    state = three.state_dict()
    first = "branches.fc.body.embedder.embedder.convolution.weight"
    state[first] = state[first].sum(dim=1, keepdim=True)
    one.load_state_dict(state)
    with torch.inference_mode():
        torch.testing.assert_close(one(inputs()), three(inputs()), rtol=1e-5, atol=1e-6)


def test_batch_normalisation_learns_in_training_and_is_fixed_in_evaluation():
    torch.manual_seed(0)
    head = build_head(spec(), SHAPES)
    mean = "branches.fc.body.embedder.embedder.normalization.running_mean"
    start = head.state_dict()[mean].clone()
    head(inputs())
    trained = head.state_dict()[mean].clone()
    assert not torch.equal(start, trained)
    head.eval()
    x = inputs()
    with torch.inference_mode():
        together = head(x)
        alone = torch.cat([head({n: t[i : i + 1] for n, t in x.items()}) for i in range(3)])
    assert torch.equal(head.state_dict()[mean], trained)
    torch.testing.assert_close(together, alone)


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    head = build_head(spec(), SHAPES)
    torch.nn.functional.cross_entropy(head(inputs()), torch.tensor([0, 1, 1])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(8, 40), st.integers(1, 5))
def test_shapes(h, batch, r, outputs):
    head = build_head({**spec(), "outputs": outputs}, {"brainlm": (h,), "fc": (r, r)}).eval()
    with torch.inference_mode():
        assert head(inputs(batch, r, h)).shape == (batch, outputs)


def linear(outputs, seed=0):
    head = build_head({**LINEAR, "outputs": outputs}, SHAPES)
    generator = torch.Generator().manual_seed(seed)
    head.load_state_dict({name: torch.randn(t.shape, generator=generator) for name, t in head.state_dict().items()})
    return head


def test_the_linear_head_is_a_weighted_sum_of_all_numbers():
    one, two = linear(1), linear(2)
    x = inputs()
    w = one.weights
    with torch.inference_mode():
        z = x["brainlm"] @ w["brainlm"] + torch.einsum("bij,ij->b", x["fc"], w["fc"]) + one.bias
        torch.testing.assert_close(one(x), z[:, None])
        torch.testing.assert_close(two(x), torch.stack([-z / 2, z / 2], dim=1))
    assert one(x).dtype == torch.float32
    assert sorted(one.state_dict()) == ["bias", "weights.brainlm", "weights.fc"]


def test_the_linear_head_is_exact_where_large_terms_cancel():
    head = build_head({**LINEAR, "modalities": ["brainlm"]}, {"brainlm": (3,)})
    head.load_state_dict({"weights.brainlm": torch.tensor([1e8, 1, -1e8]), "bias": torch.zeros(1)})
    with torch.inference_mode():
        assert head({"brainlm": torch.ones(1, 3)}).tolist() == [[-0.5, 0.5]]


def test_the_linear_head_can_be_trained_and_explained():
    head, x = linear(2), {name: t.requires_grad_() for name, t in inputs().items()}
    torch.nn.functional.cross_entropy(head(x), torch.tensor([0, 1, 1])).backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (*head.parameters(), *x.values()))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kind": "quadratic"}, "no head 'quadratic'; known are fmmtc, linear"),
        ({"kind": ["fmmtc"]}, "no head"),
        ({"kind": "linear"}, "expected kind, modalities"),
        ({**LINEAR, "modalities": []}, "expected kind, modalities"),
        ({**LINEAR, "modalities": "fc"}, "expected kind, modalities"),
        ({**LINEAR, "outputs": 3}, "outputs"),
        ({**LINEAR, "outputs": True}, "outputs"),
        ({**LINEAR, "branches": {}}, "expected kind, modalities"),
        ({**LINEAR, "modalities": ["fc"]}, "modalities fc, expected fc, brainlm"),
        ({**LINEAR, "modalities": ["fc", "fc"]}, "modalities fc, fc, expected fc, brainlm"),
        ({**LINEAR, "modalities": ["fc", 3]}, "modalities fc, 3, expected fc, brainlm"),
        ({}, "no head None"),
        ({"kind": "fmmtc"}, "expected kind, branches"),
        ({"kind": "fmmtc", "branches": {}}, "expected kind, branches"),
        ({**spec(), "outputs": 0}, "outputs"),
        ({**spec(), "extra": 1}, "expected kind, branches"),
        ({"kind": "fmmtc", "branches": {"fc": SMALL}}, "modalities are fc, brainlm"),
        (spec(branch="vgg"), "no branch 'vgg'; known are identity, resnet18"),
        (spec(colour=1), "unknown option 'colour'"),
        (spec(width=0), "width must be a positive integer"),
        (spec(width=True), "width must be"),
        (spec(width=[3]), "width must be"),
        (spec(depths=3), "a list of positive integers"),
        (spec(depths=[]), "a list of positive integers"),
        (spec(depths="1111"), "a list of positive integers"),
        (spec(depths=[1, 1]), "4 hidden_sizes but 2 depths"),
        ({"kind": "fmmtc", "branches": {"brainlm": 3, "fc": SMALL}}, "a branch is an object"),
        ({"kind": "fmmtc", "branches": {"brainlm": {"branch": "identity", "x": 1}, "fc": SMALL}}, "known are none"),
        ({"kind": "fmmtc", "branches": {"brainlm": SMALL, "fc": SMALL}}, "takes matrices"),
        ({"kind": "fmmtc", "branches": {n: {"branch": "identity"} for n in SHAPES}}, "takes vectors"),
    ],
)
def test_bad_specs_are_refused(bad, message):
    with pytest.raises(BundleError, match=message):
        build_head(bad, SHAPES)


def test_tables_are_open(monkeypatch):
    class Mean(module.Branch):
        def __init__(self, shape, options):
            super().__init__(shape, options)
            self.width = 1

        def forward(self, x):
            return x.mean(dim=(1, 2)).unsqueeze(1)

    monkeypatch.setitem(BRANCHES, "mean", Mean)
    monkeypatch.setitem(module.HEADS, "flat", lambda spec, shapes: torch.nn.Linear(shapes["fc"][0], spec["outputs"]))
    head = build_head({"kind": "fmmtc", "branches": {"fc": {"branch": "mean"}}}, {"fc": (4, 4)})
    assert head({"fc": torch.ones(2, 4, 4)}).shape == (2, 2)
    assert build_head({"kind": "flat", "outputs": 3}, {"fc": (4, 4)}).out_features == 3
