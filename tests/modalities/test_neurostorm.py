"""NeuroSTORM's encoder against the reference's outputs, and against itself by its three ways of computing."""

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from neurostorm_parts import FIXTURES, SMALL, TOLERANCE, fixture, manifest, random_clip, random_model

from bids_fmmtc.errors import DataError
from bids_fmmtc.modalities import neurostorm
from bids_fmmtc.modalities.neurostorm import NeuroStorm, partition, scan_of, selective_scan
from bids_fmmtc.modalities.neurostorm_config import BARE, PUBLISHED, NeuroStormConfig, parameter_shapes

WAYS = ("gradients", "torch", "numba")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Compute with autograd, with torch alone, or with the compiled kernels."""
    if request.param == "numba" and importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    if request.param == "torch":
        monkeypatch.setattr(neurostorm, "kernels", lambda: None)
    with torch.set_grad_enabled(request.param == "gradients"):
        yield request.param


def close(one, other, tolerance=TOLERANCE):
    torch.testing.assert_close(one.detach(), other, atol=tolerance, rtol=0)


# ----------------------------------------------------------------------------------------------------------- parity


def parity_model(prompts=0):
    model = NeuroStorm(NeuroStormConfig.from_json(manifest()["encoder_config"]), prompts)
    state = fixture("encoder_state")
    if prompts:
        state |= {k: v for k, v in fixture("prompt").items() if k.endswith("prompt")}
    model.load_state_dict(state)
    return model.eval()


def test_every_stage_is_the_reference_s(way):
    model, io = parity_model(), fixture("encoder_io")
    embedded, *stages = model.stages(io["input"])
    close(embedded, io["act.patch_embed"])
    for i, stage in enumerate(stages):
        close(stage, io[f"act.layers.{i}"])
    close(stages[-1], io["output"])


def test_every_block_is_the_reference_s(way):
    model, io = parity_model(), fixture("encoder_io")
    x = model.patch_embed(io["input"])
    compared = 0
    for i, (positions, stage) in enumerate(zip(model.pos_embeds, model.layers, strict=True)):
        x = positions(x)
        close(x.movedim(-1, 1), io[f"act.pos_embeds.{i}"])
        for j, block in enumerate(stage.blocks):
            windows = partition(tuple(x.shape[1:5]), stage.window, shifted=stage.shifts and j % 2 == 1)
            flat = x.flatten(1, 4)
            if (i, j) == (0, 0):
                normed = block.norm1(flat)
                close(normed.view(x.shape), io["act.layers.0.blocks.0.norm1"])
                rows = torch.nn.functional.pad(normed, (0, 0, 0, 1))[:, windows.tokens].flatten(0, 1)
                close(block.mamba(rows), io["act.layers.0.blocks.0.mamba"])
            x = block(flat, windows).view(x.shape)
            if f"act.layers.{i}.blocks.{j}" in io:
                close(x, io[f"act.layers.{i}.blocks.{j}"])
                compared += 1
        x = x if stage.downsample is None else stage.downsample(x)
    assert compared == 6


def test_prompts_are_the_reference_s(way):
    model, expected = parity_model(prompts=5), fixture("prompt")
    stages = list(model.stages(fixture("encoder_io")["input"]))[1:]
    for i, stage in enumerate(stages):
        close(stage, expected[f"act.layers.{i}"])
    close(stages[-1], expected["output"])


def test_gradients_of_prompts_and_head_are_the_reference_s():
    model, expected = parity_model(prompts=5), fixture("prompt_grads")
    heads = fixture("heads_state")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("prompt"))
    head = torch.nn.Linear(96, 1)
    head.load_state_dict({k.split(".")[-1]: v for k, v in heads.items() if k.startswith("cls_v1_binary.")})
    logits = head(model.vector(fixture("encoder_io")["input"]))[:, 0]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, expected["target"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected["loss"][0], atol=1e-5, rtol=0)
    own = {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    own |= {f"grad.head.head.head.{n}": p.grad for n, p in head.named_parameters()}
    assert set(own) == {k for k in expected if k.startswith("grad.")}
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False])
def test_the_model_of_full_size_is_the_reference_s(compiled, monkeypatch):
    expected = fixture("default_config")
    monkeypatch.syspath_prepend(str(FIXTURES))
    formula = pytest.importorskip("formula")
    if not compiled:
        monkeypatch.setattr(neurostorm, "kernels", lambda: None)
    model = NeuroStorm(PUBLISHED).eval()
    model.load_state_dict(formula.fill(model.state_dict(), 0.7310, 1.6180))
    with torch.inference_mode():
        embedded, *stages = model.stages(formula.volume(a=0.7310))
    close(embedded[:, ::6, ::4, ::4, ::4, ::5], expected["patch_embed.sub"])
    for i, stage in enumerate(stages):
        close(stage[:, ::6, ::2, ::2, ::2, ::5], expected[f"layers.{i}.sub"])
    close(stages[-1], expected["output"])


# ------------------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize(("config", "n"), [(PUBLISHED, 5_173_020), (BARE, 2_391_336)])
def test_both_configurations_have_the_published_number_of_parameters(config, n):
    with torch.device("meta"):
        state = NeuroStorm(config).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == parameter_shapes(config)
    assert sum(value.numel() for value in state.values()) == n


@given(grid=st.tuples(*[st.integers(1, 9)] * 4), window=st.tuples(*[st.integers(1, 5)] * 4), shifted=st.booleans())
def test_windows_partition_every_grid(grid, window, shifted):
    windows = partition(grid, window, shifted=shifted)
    n = int(np.prod(grid))
    tokens = windows.tokens.ravel()
    assert sorted(tokens[tokens < n].tolist()) == list(range(n))
    assert tokens[windows.place].tolist() == list(range(n))
    assert windows.tokens.shape[1] == np.prod(np.minimum(grid, window))


def test_a_shifted_window_joins_opposite_faces_and_an_axis_of_one_window_is_not_shifted():
    shifted = partition((4, 1, 1, 4), (2, 1, 1, 4), shifted=True).tokens.tolist()
    assert shifted == [[4, 5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 0, 1, 2, 3]]


def test_the_three_ways_agree_where_windows_need_padding(monkeypatch):
    model, clip = random_model(prompts=3), random_clip()
    with torch.enable_grad():
        expected = model(clip).detach()
    with torch.no_grad():
        compiled = model(clip)
        monkeypatch.setattr(neurostorm, "kernels", lambda: None)
        plain = model(clip)
    close(plain, expected, 5e-6)
    close(compiled, expected, 5e-6)


def test_any_shorter_clip_is_read_and_a_longer_one_refused(way):
    model = random_model()
    for frames in range(1, SMALL.frames + 1):
        assert model(random_clip(frames=frames)).shape == (2, 8, 6, 6, 6, frames)
    with pytest.raises(DataError, match="T up to 5"):
        model(random_clip(frames=6))
    with pytest.raises(DataError, match="expected clips"):
        model(torch.zeros(1, 1, 12, 24, 24, 5))


def test_clips_do_not_touch_each_other_and_nothing_is_changed_in_place(way):
    model, clip = random_model(), random_clip()
    before, weights = clip.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    together = model(clip)
    torch.testing.assert_close(model(clip[1:]), together[1:], atol=1e-6, rtol=0)
    assert torch.equal(clip, before)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_twice_is_the_same_to_the_bit(way):
    model, clip = random_model(), random_clip()
    assert torch.equal(model(clip), model(clip))


def test_how_many_windows_are_worked_on_at_a_time_does_not_matter(monkeypatch):
    model, clip = random_model(), random_clip()
    with torch.no_grad():
        expected = model(clip)
        for chunk in (1, 300, 10**9):
            monkeypatch.setattr(neurostorm, "CHUNK", chunk)
            close(model(clip), expected, 2e-6)


def test_a_later_frame_never_touches_an_earlier_one_of_its_sequence():
    """The scan is causal: what follows in a window cannot matter."""
    rng = torch.Generator().manual_seed(3)
    u, dt = torch.randn(2, 9, 6, generator=rng), torch.rand(2, 9, 6, generator=rng)
    a, b, c = -torch.rand(6, 16, generator=rng), *torch.randn(2, 2, 9, 16, generator=rng)
    whole = selective_scan(u, dt, a, b, c)
    u[:, 5:], dt[:, 5:], b[:, 5:] = 99.0, 0.5, -7.0
    assert torch.equal(selective_scan(u, dt, a, b, c)[:, :5], whole[:, :5])


def test_the_scan_is_the_recurrence():
    rng = np.random.default_rng(4)
    u, dt = rng.standard_normal((3, 7, 5)), rng.random((3, 7, 5))
    a, b, c = -rng.random((5, 16)), rng.standard_normal((3, 7, 16)), rng.standard_normal((3, 7, 16))
    expected = np.zeros((3, 7, 5))
    for n in range(3):
        for e in range(5):
            h = np.zeros(16)
            for t in range(7):
                h = np.exp(dt[n, t, e] * a[e]) * h + dt[n, t, e] * u[n, t, e] * b[n, t]
                expected[n, t, e] = h @ c[n, t]
    found = selective_scan(*(torch.from_numpy(v.astype(np.float32)) for v in (u, dt, a, b, c)))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_the_installed_kernel_is_asked_without_gradients_too(monkeypatch):
    model, clip, calls = random_model(prompts=2), random_clip(), []

    def selective_scan_fn(u, dt, a, b, c):  # of mamba_ssm: channels before time
        calls.append(u.shape)
        monkeypatch.setattr(neurostorm, "scan_of", lambda _device: "torch")
        out = selective_scan(*(v.transpose(1, 2) for v in (u, dt)), a, *(v.transpose(1, 2) for v in (b, c)))
        monkeypatch.setattr(neurostorm, "scan_of", lambda _device: "mamba_ssm")
        return out.transpose(1, 2)

    with torch.no_grad():
        expected = model(clip)
        for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules[name].selective_scan_fn = selective_scan_fn
        monkeypatch.setattr(neurostorm, "scan_of", lambda _device: "mamba_ssm")
        close(model(clip), expected, 5e-6)
    assert len(calls) == sum(SMALL.depths)


def test_cuda_takes_the_installed_kernel_and_a_cpu_never_does(tmp_path, monkeypatch):
    assert scan_of(torch.device("cpu")) == "torch"
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mamba_ssm", raising=False)
    assert scan_of(torch.device("cuda")) == "mamba_ssm"
    assert scan_of(torch.device("cpu")) == "torch"
