"""Time and memory of both encoders: BrainLM on one window, and NeuroSTORM on one clip.

BrainLM is compared with attention written out as FMM_TC runs it, NeuroSTORM with a plain loop over the steps of its
scan and with transformers' `MambaMixer` in the same backbone (`neurostorm_encoder.py`). Each measurement is a fresh
child process (wall and CPU time and peak memory from ``os.wait4``), in rounds that alternate between the variants. A
child that only imports and loads what all need gives the base that is subtracted. The weights are random, in the
published configurations; the window has 424 parcels and 200 frames, the clip 96 x 96 x 96 voxels and 20 frames.

    python benchmarks/encoder.py [--only brainlm|neurostorm] --rounds 5 --threads 2 --json encoder.json
    python benchmarks/encoder.py --quick   # one small round; fails where the compiled scan has lost its vectors
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = {
    "model_type": "brainlm_mae",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "decoder_hidden_size": 256,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 1024,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "conv_kernel_size": 65,
    "num_landmarks": 64,
    "segment_means_seq_len": 64,
    "timepoint_patching_size": 20,
    "num_brain_voxels": 424,
    "num_timepoints_per_voxel": 200,
    "mask_ratio": 0.2,
    "loss_fn": "mse",
    "use_tanh_decoder": False,
    "patch_size": 16,
    "num_channels": 3,
}
VARIANTS = {
    "base": "import and load only",
    "naive-kept": "written-out attention, all maps and hidden states kept (as FMM_TC calls it)",
    "naive": "written-out attention, nothing kept",
    "full": "ours, all tokens of the last block",
    "ours": "ours: fast CLS",
}
REFERENCE = "naive-kept"


def naive_cls(model, signal, xyz, *, keep):
    """CLS by written-out softmax attention; with ``keep`` every attention map and hidden state stays alive."""
    maps, states = [], []
    x = model.embed(signal, xyz).x  # [1,S,H]
    for block in model.vit.encoder.layer:
        attention, layer = block.attention, block.attention.self
        q, k, v = (
            linear(x).view(*x.shape[:2], layer.heads, -1).transpose(1, 2)  # [1,S,H] -> [1,heads,S,H/heads]
            for linear in (layer.query, layer.key, layer.value)
        )
        scale = q.shape[-1] ** 0.25
        weights = ((q / scale) @ (k / scale).transpose(-1, -2)).softmax(dim=-1)  # [1,heads,S,S]
        context = weights @ v + layer.conv(v)  # [1,heads,S,H/heads]
        if keep:
            maps.append(weights)
            states.append(x)
        x = attention.output(context.transpose(1, 2).flatten(2), x)
        x = block.output(block.intermediate(x), x)
    return model.vit.layernorm(x)[:, 0]


def child(variant, folder, threads):
    """Run one variant once; print the CLS and the seconds of the encoder alone.

    Those are steadier than differences to the base: importing torch takes several times as long as the encoder.
    """
    import torch

    from bids_fmmtc.modalities.brainlm import load_brainlm

    torch.set_num_threads(threads)
    model = load_brainlm(Path(folder))
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(1, 424, 200, generator=generator)
    xyz = torch.randn(1, 424, 3, generator=generator) * 40
    runs = {
        "base": lambda: torch.zeros(1, 1),
        "naive-kept": lambda: naive_cls(model, signal, xyz, keep=True),
        "naive": lambda: naive_cls(model, signal, xyz, keep=False),
        "full": lambda: model.encode(model.embed(signal, xyz).x)[:, 0],
        "ours": lambda: model.cls(signal, xyz),
    }
    with torch.inference_mode():
        wall, cpu = time.perf_counter(), time.process_time()
        cls = runs[variant]()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"cls": cls[0].tolist(), "encoder_wall_s": wall, "encoder_cpu_s": cpu}))


def make_checkpoint(folder):
    """Write random weights, in a child of its own.

    Linux counts the memory of the parent at the time of the fork towards a child's peak, so the parent must stay small
    and never import torch.
    """
    import torch
    from safetensors.torch import save_file

    from bids_fmmtc.modalities.brainlm import BrainLM, BrainLMConfig

    torch.manual_seed(0)
    (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
    save_file(BrainLM(BrainLMConfig.from_json(CONFIG)).state_dict(), Path(folder) / "model.safetensors")
    print(json.dumps({"torch": torch.__version__}))


def measure(variant, folder, threads):
    """Start one child and return its figures."""
    command = [sys.executable, __file__, "--child", variant, "--folder", str(folder), "--threads", str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the child for {variant} ended with {process.returncode}")
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,  # kB on Linux
        **json.loads(output),
    }


def summarise(runs):
    """Medians, the figures above base, and ratios of the reference variant to each."""
    names = ("wall_s", "cpu_s", "peak_mb", "encoder_wall_s", "encoder_cpu_s")
    table = {v: {n: statistics.median(run[n] for run in found) for n in names} for v, found in runs.items()}
    for row in table.values():
        for name in ("wall_s", "cpu_s", "peak_mb"):
            row[f"net_{name}"] = row[name] - table["base"][name]
    reference = runs[REFERENCE][0]["cls"]
    for variant, row in table.items():
        if variant != "base":
            row["cls_difference"] = max(abs(a - b) for a, b in zip(runs[variant][0]["cls"], reference, strict=True))
            row["bit_equal_rounds"] = all(run["cls"] == runs[variant][0]["cls"] for run in runs[variant])
            row["times_faster_cpu"] = table[REFERENCE]["encoder_cpu_s"] / row["encoder_cpu_s"]
            row["times_faster_wall"] = table[REFERENCE]["encoder_wall_s"] / row["encoder_wall_s"]
            row["share_of_memory"] = row["net_peak_mb"] / table[REFERENCE]["net_peak_mb"]
    return table


def markdown(table, rounds, threads):
    """Return the table that goes into a README."""
    lines = [
        f"BrainLM encoder, one window of 424 x 200, medians of {rounds} fresh processes, {threads} threads. "
        "The encoder's memory is what lies above a process that only imports and loads the model; its seconds are "
        "measured inside.",
        "",
        "| variant | process: wall s | CPU s | peak MB | encoder: wall s | CPU s | MB | faster: wall | CPU | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, row in table.items():
        cells = [
            VARIANTS[variant],
            *(f"{row[n]:.2f}" if n != "peak_mb" else f"{row[n]:.0f}" for n in ("wall_s", "cpu_s", "peak_mb")),
        ]
        if variant == "base":
            cells += ["", "", "", "", "", ""]
        else:
            cells += [f"{row['encoder_wall_s']:.2f}", f"{row['encoder_cpu_s']:.2f}", f"{row['net_peak_mb']:.0f}"]
            cells += [f"{row['times_faster_wall']:.2f} x", f"{row['times_faster_cpu']:.2f} x"]
            cells += [f"{100 * row['share_of_memory']:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["brainlm", "neurostorm"], help="one of the two (default: both)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all variants (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of BrainLM's children (default 2)")
    parser.add_argument("--quick", action="store_true", help="NeuroSTORM of a small grid, once, and the guard")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--child", choices=[*VARIANTS, "make"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "make":
        make_checkpoint(options.folder)
        return
    if options.child:
        child(options.child, options.folder, options.threads)
        return

    result = {"settings": {"rounds": options.rounds, "threads": options.threads}}
    if options.only != "neurostorm" and not options.quick:
        result["brainlm"] = run_brainlm(options)
    met = True
    if options.only != "brainlm":
        result["neurostorm"], met = run_neurostorm(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(0 if met else 1)


def run_brainlm(options):
    """Print the table of BrainLM; return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        torch_version = measure("make", folder, options.threads)["torch"]
        runs = {variant: [] for variant in VARIANTS}
        for done in range(options.rounds):
            for variant, found in runs.items():
                found.append(measure(variant, folder, options.threads))
            print(f"BrainLM: round {done + 1} of {options.rounds}", file=sys.stderr)
    table = summarise(runs)
    print(markdown(table, options.rounds, options.threads) + "\n")
    figures = {v: [{k: x for k, x in run.items() if k != "cls"} for run in found] for v, found in runs.items()}
    return {"torch": torch_version, "median": table, "runs": figures}


def run_neurostorm(options):
    """Print the table of NeuroSTORM and what is met; return its figures, and whether what must hold anywhere does."""
    import neurostorm_encoder as neurostorm  # this folder's

    rounds, size = (1, "quick") if options.quick else (options.rounds, "full")
    with tempfile.TemporaryDirectory() as cache:
        runs, compiling = neurostorm.run(rounds, size, cache)
        guard = neurostorm.check_guard(cache)
    table = neurostorm.summarise(runs)
    print(neurostorm.markdown(table, rounds, size) + "\n")
    once = compiling["cpu_s"] - table["numba"]["cpu_s"]
    print(f"Compiling once, kept from process to process: {once:.1f} CPU s, in a process beside the first.\n")
    anywhere = [*neurostorm.agreement(table, runs), guard]
    if options.quick:
        print("Quick: a small grid and one round say nothing about the other targets.")
        found = anywhere
    else:
        found = [*neurostorm.verdicts(table, runs), anywhere[-1]]
    print("\n".join(f"- {'met' if ok else 'MISSED'}: {what}" for ok, what in found))
    figures = {v: [{k: x for k, x in r.items() if k != "vector"} for r in several] for v, several in runs.items()}
    verdicts = [{"met": bool(ok), "what": what} for ok, what in found]
    return {"median": table, "runs": figures, "verdicts": verdicts}, all(ok for ok, _ in anywhere)


if __name__ == "__main__":
    main()
