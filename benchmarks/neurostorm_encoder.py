"""The contestants of `encoder.py`'s second part: NeuroSTORM on one clip, scanned in four ways in the same backbone."""

from __future__ import annotations

# Children run this file too: whatever only they need is imported where it is used.
import json
import os
import statistics
import subprocess
import sys
import time

VARIANTS = {
    "base": "torch and the clip",
    "numba": "ours with numba",
    "torch": "ours with torch alone",
    "plain": "a plain loop over steps",
    "transformers": "transformers' MambaMixer, slow path",
}
REFERENCE = "plain"
AGREEMENT = 5e-6
GUARD = 1.5
"""The scan may cost so many times `torch.exp` of as many numbers as it has decays: 0.6 with vectors of eight, 2.8
without any (NUMBA_LOOP_VECTORIZE=0 NUMBA_SLP_VECTORIZE=0)."""


# ------------------------------------------------------------------------------------------------------------ children


def plain_scan(u, dt, a, b, c):
    """Scan step by step, all windows at once: what one writes down first."""
    import torch

    state, rows = u.new_zeros(u.shape[0], u.shape[2], a.shape[1]), []
    for t in range(u.shape[1]):
        state = torch.exp(dt[:, t, :, None] * a) * state + (dt[:, t] * u[:, t])[..., None] * b[:, t, None]
        rows.append((state @ c[:, t, :, None])[..., 0])  # [n,E,S] x [n,S,1] -> [n,E]
    return torch.stack(rows, 1)


def as_transformers(mamba):
    """Return transformers' mixer with the weights of one of ours."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    inner, states = mamba.A_log.shape
    width = mamba.out_proj.out_features
    config = MambaConfig(
        hidden_size=width,
        state_size=states,
        conv_kernel=mamba.conv1d.kernel_size[0],
        expand=inner // width,
        time_step_rank=mamba.rank,
        num_hidden_layers=1,
    )
    mixer = MambaMixer(config, 0).eval()
    mixer.load_state_dict(mamba.state_dict())
    return mixer


def contestant(variant, model):
    """Set up one variant; what is not ours runs whole grids through `Block.forward`, as it would without our pieces."""
    from bids_fmmtc.modalities import neurostorm

    if variant == "torch":
        neurostorm.kernels = lambda: None
    elif variant in ("plain", "transformers"):
        neurostorm.needs_gradient = lambda _x, _block: True
        neurostorm.selective_scan = plain_scan
    if variant == "transformers":
        for stage in model.layers:
            for block in stage.blocks:
                block.mamba = as_transformers(block.mamba)


def make_clip(config):
    """Return a clip [1,1,X,Y,Z,T] in the order of memory in which `signals.volumes` hands it over."""
    import torch

    x, y, z, t = config.img_size
    clip = torch.randn(1, t, x, y, z, generator=torch.Generator().manual_seed(1))
    return clip.movedim(1, -1)[:, None]


def configs():
    """Return the published configuration, and a tiny one of the same kinds of layers."""
    from dataclasses import replace

    from bids_fmmtc.modalities.neurostorm_config import PUBLISHED

    return {"full": PUBLISHED, "quick": replace(PUBLISHED, img_size=(48, 48, 48, 8), depths=(2, 2))}


def child(variant, size, seed=0):
    """Run one variant; print the vector, the CPU seconds of one clip, and what memory it took."""
    import torch

    from bids_fmmtc.modalities.neurostorm import NeuroStorm

    torch.set_num_threads(1)
    config = configs()[size]
    clip = make_clip(config)
    if variant == "base":
        print(json.dumps({"torch": torch.__version__}))
        return
    torch.manual_seed(seed)
    model = NeuroStorm(config).eval()
    contestant(variant, model)
    with torch.inference_mode():
        # The first clip finds memory and waits for machine code; a recording has dozens of clips.
        before, first = time.process_time(), model.vector(clip)
        between = time.process_time()
        vector = model.vector(clip)
        after = time.process_time()
    figures = {"encoder_cpu_s": after - between, "first_cpu_s": between - before}
    print(json.dumps({"vector": vector[0].tolist(), "same": bool((first == vector).all()), **figures}))


def guard():
    """Print how many times `torch.exp` of as many numbers the compiled scan costs; the least of many, taken in turn."""
    import numpy as np
    import torch

    from bids_fmmtc.modalities.neurostorm import kernels

    torch.set_num_threads(1)
    compiled = kernels()
    rng, (m, length, inner, states) = np.random.default_rng(0), (512, 256, 72, 16)
    shapes = {"u": (m, inner), "xz": (m, 2 * inner), "dt": (m, inner), "bc": (m, 3 + 2 * states)}
    given = [rng.standard_normal(shape, np.float32) for shape in shapes.values()]
    bias, d = np.full(inner, -3, np.float32), np.ones(inner, np.float32)
    decays = -rng.random((states, inner), np.float32)
    scratch, out = np.zeros((states + 2, inner), np.float32), np.empty((m, inner), np.float32)
    numbers = torch.from_numpy(decays).repeat(32, 1)  # what fits a cache, as the scan's states do
    into = torch.empty_like(numbers)
    runs = {
        "scan": lambda: compiled.scan(*given, length, bias, decays, d, scratch, out),
        "exp": lambda: [torch.exp(numbers, out=into) for _ in range(m // 32)],
    }
    seconds = {name: [] for name in runs}
    for _ in range(60):
        for name, run in runs.items():
            before = time.thread_time()
            run()
            seconds[name].append(time.thread_time() - before)
    print(json.dumps({"ratio": min(seconds["scan"]) / min(seconds["exp"])}))


# ---------------------------------------------------------------------------------------------------------- the parent


def measure(variant, size, cache):
    """Start one child and return its figures; the parent stays small, as its memory counts towards a child's peak."""
    command = [sys.executable, __file__, variant, size]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment["NUMBA_CACHE_DIR"] = str(cache)  # as the command line keeps machine code from process to process
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the child for {variant} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"cpu_s": cpu, "peak_mb": usage.ru_maxrss / 1024, **json.loads(output)}  # kB on Linux


def run(rounds, size, cache):
    """Run all variants in turn, with machine code kept in a folder; what compiling it costs is a figure of its own."""
    compiling = measure("numba", size, cache)
    runs = {variant: [] for variant in VARIANTS}
    for done in range(rounds):
        for variant, found in runs.items():
            found.append(measure(variant, size, cache))
        print(f"NeuroSTORM: round {done + 1} of {rounds}", file=sys.stderr)
    return runs, compiling


def summarise(runs):
    """Return medians, memory above the base, ratios, and the largest difference to the reference."""
    table, reference = {}, runs[REFERENCE][0]["vector"]
    for variant, found in runs.items():
        row = {name: statistics.median(r[name] for r in found) for name in found[0] if name.endswith(("_s", "_mb"))}
        table[variant] = row
        row["net_mb"] = row["peak_mb"] - table["base"]["peak_mb"]
        if variant != "base":
            row["difference"] = _apart(found[0]["vector"], reference)
            row["same"] = all(r["same"] and r["vector"] == found[0]["vector"] for r in found)
            for other in ("plain", "transformers"):
                ratios = [b["encoder_cpu_s"] / a["encoder_cpu_s"] for a, b in zip(found, runs[other], strict=True)]
                row[f"less_than_{other}"] = statistics.median(ratios)
    return table


def _apart(one, other):
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def markdown(table, rounds, size):
    """Return the table."""
    what = {"full": "published configuration, one clip of 96 x 96 x 96 x 20", "quick": "a small grid"}[size]
    lines = [
        f"NeuroSTORM, {what}, medians of {rounds} fresh processes, one thread. Memory is the peak above a process with "
        "torch and the clip; ratios are medians of each round's; the last column is a whole process with "
        "one clip.",
        "",
        "| variant | CPU s a clip | first | less than plain | than MambaMixer | MB | difference | process |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, row in table.items():
        if variant != "base":
            cells = [VARIANTS[variant], f"{row['encoder_cpu_s']:.2f}", f"{row['first_cpu_s']:.2f}"]
            cells += [f"{row['less_than_plain']:.2f}", f"{row['less_than_transformers']:.2f}", f"{row['net_mb']:.0f}"]
            cells += [f"{row['difference']:.1e}", f"{row['cpu_s'] - row['encoder_cpu_s']:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(table, runs):
    """Yield (met, what was found) for each target."""
    for variant, other, least in (
        ("numba", "transformers", 8),
        ("numba", "plain", 3.5),
        ("torch", "transformers", 3.5),
        ("torch", "plain", 1.5),
    ):
        ratio = table[variant][f"less_than_{other}"]
        found = f"{VARIANTS[variant]}: {ratio:.2f} times less CPU than {VARIANTS[other]} (target: {least})"
        yield ratio >= least, found
    memory = table["numba"]["net_mb"]
    yield memory <= 150, f"{VARIANTS['numba']}: {memory:.0f} MB above torch and the clip (target: at most 150)"
    yield from agreement(table, runs)


def agreement(table, runs):
    """Yield the verdicts that a busy machine and a small grid do not touch."""
    apart = _apart(runs["numba"][0]["vector"], runs["torch"][0]["vector"])
    yield apart <= AGREEMENT, f"with and without numba differ by at most {apart:.1e} (target: {AGREEMENT:g})"
    yield all(row.get("same", True) for row in table.values()), "each gives the same bits in every round"


def check_guard(cache):
    """Return (met, what was found): whether the compiled scan still works on vectors."""
    ratio = measure("guard", "quick", cache)["ratio"]
    found = f"the compiled scan costs {ratio:.1f} times torch.exp of its decays (target: at most {GUARD:g})"
    return ratio <= GUARD, found


if __name__ == "__main__":
    if sys.argv[1] == "guard":
        guard()
    else:
        child(sys.argv[1], sys.argv[2])
