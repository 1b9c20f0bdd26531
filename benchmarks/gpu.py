"""Both encoders on a GPU: does it agree with the CPU, and how many windows and clips a second does it take?

    python benchmarks/gpu.py                      # published configurations; one line where there is no CUDA device
    python benchmarks/gpu.py --device cpu --quick  # the same steps with small models, without numba in place of a GPU

Weights are random, of one seed. Agreement is the largest difference of the vectors to the CPU's, over the largest of
these: in float32, with TF32 off as the program has it, at most 1e-4; under bfloat16 autocast it is only told. Speed is
the median of timed rounds after a warm-up, synchronised, for batches of several sizes; a batch that does not fit the
memory is left out. The scan of NeuroSTORM is mamba_ssm's where that is installed, else the program's own in torch.

Ends with 0 where there is no such device, and with 1 where float32 does not agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from encoder import CONFIG  # this folder's: checkpoint-1400's

from bids_fmmtc.modalities import neurostorm as neurostorm_module
from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig
from bids_fmmtc.modalities.neurostorm import NeuroStorm, scan_of
from bids_fmmtc.modalities.neurostorm_config import PUBLISHED
from bids_fmmtc.modalities.numerics import strict

AGREEMENT = 1e-4
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def brainlm(*, quick):
    """Return a model of windows, what it makes of a batch, and how such a batch is drawn."""
    parcels = 24 if quick else CONFIG["num_brain_voxels"]
    frames = CONFIG["num_timepoints_per_voxel"]
    layers = 1 if quick else CONFIG["num_hidden_layers"]
    config = BrainLMConfig.from_json(CONFIG | {"num_brain_voxels": parcels, "num_hidden_layers": layers})
    torch.manual_seed(0)
    model = BrainLM(config).eval()

    def draw(n, generator):
        return (
            torch.randn(n, parcels, frames, generator=generator),
            40 * torch.randn(1, parcels, 3, generator=generator).expand(n, -1, -1),
        )

    return model, model.cls, draw


def neurostorm(*, quick):
    """As `brainlm`, of clips."""
    config = replace(PUBLISHED, img_size=(24, 24, 24, 4), depths=(2, 2)) if quick else PUBLISHED
    torch.manual_seed(0)
    model = NeuroStorm(config).eval()
    x, y, z, t = config.img_size

    def draw(n, generator):
        return (torch.randn(n, t, x, y, z, generator=generator).movedim(1, -1)[:, None],)

    return model, model.vector, draw


ENCODERS = {"BrainLM, windows": brainlm, "NeuroSTORM, clips": neurostorm}


def wait(device):
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run(make, device, precision, batch, rounds, *, quick):
    """Return the largest relative difference to the CPU, and items a second; None where memory does not suffice."""
    compiled = neurostorm_module.kernels
    model, call, draw = make(quick=quick)
    given = draw(batch, torch.Generator().manual_seed(1))
    kind = PRECISIONS[precision]
    with strict(), torch.inference_mode():
        expected = call(*(v[:1] for v in given))
        if device.type == "cpu":  # take the way of a GPU: torch alone
            neurostorm_module.kernels = lambda: None
        model.to(device)
        there = [v.to(device) for v in given]
        try:
            with torch.autocast(device.type, kind, enabled=kind != torch.float32):
                found = call(*there)  # also the warm-up
                wait(device)
                seconds = []
                for _ in range(rounds):
                    start = time.perf_counter()
                    call(*there)
                    wait(device)
                    seconds.append(time.perf_counter() - start)
        except torch.OutOfMemoryError:
            return None
    neurostorm_module.kernels = compiled
    apart = (found[:1].float().cpu() - expected).abs().max() / expected.abs().max()
    return {"difference": float(apart), "per_second": batch / statistics.median(seconds)}


def main():
    """Read the options; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device (default cuda)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of each batch (default 10)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="sizes of batches (default 1 4 16)")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--quick", action="store_true", help="small models, batches of 1 and 2, one round")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("No CUDA device here: nothing was measured.")
        return 0
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU itself"
    batches, rounds = ([1, 2], 1) if options.quick else (options.batches, options.rounds)
    print(f"torch {torch.__version__} on {name}; NeuroSTORM's scan: {scan_of(device)}.\n")
    print("| encoder | precision | batch | a second | largest difference to the CPU |\n|---|---|---|---|---|")
    figures, agrees = [], True
    for label, make in ENCODERS.items():
        for precision in PRECISIONS:
            for batch in batches:
                found = run(make, device, precision, batch, rounds, quick=options.quick)
                if found is None:
                    print(f"| {label} | {precision} | {batch} | does not fit | |")
                    continue
                print(f"| {label} | {precision} | {batch} | {found['per_second']:.2f} | {found['difference']:.1e} |")
                figures.append({"encoder": label, "precision": precision, "batch": batch, **found})
                agrees &= precision != "fp32" or found["difference"] <= AGREEMENT
    print(f"\n- {'met' if agrees else 'MISSED'}: fp32 differs from the CPU by at most {AGREEMENT:g} of the largest")
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "device": name, "runs": figures}, indent=1))
    return 0 if agrees else 1


if __name__ == "__main__":
    raise SystemExit(main())
