"""Does a test notice? Small random faults in the package, each against the test file of the mirrored name only.

    nice -n 10 python benchmarks/mutants.py                               # 100 of signals, learning and dataset
    python benchmarks/mutants.py --n 10 --seed 1 signals/windows.py       # files, too

Works in a copy. A line for each: killed (a test fails or never ends) or SURVIVED, and what had been changed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT, PACKAGE = Path(__file__).resolve().parents[1], "bids_fmmtc"
SWAPS = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn, ast.And: ast.Or}
SWAPS |= {ast.Add: ast.Sub, ast.Mult: ast.Div}
SWAPS |= {after: before for before, after in SWAPS.items()}
DOES_NOTHING = ("annotation", "returns", "decorator_list")
SAID = ("log.", "say(", "self.say(", "warnings.")
HEAVY = ("hypothesis", "numpy", "scipy.stats", "nibabel", "sklearn.linear_model", "torch", "pandas")
LIMIT_S = 120  # of CPU, of all tests of a module


def parts(node, *, inside=False):
    """Yield every node that does something, in order, and whether it is inside a function."""
    yield node, inside
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            said = isinstance(child, ast.Expr) and ast.unparse(child).startswith(SAID)
            if isinstance(child, ast.AST) and name not in DOES_NOTHING and not said:
                yield from parts(child, inside=inside or isinstance(node, ast.FunctionDef))


def change(node, inside):
    """Make a small fault of a node; False where there is none to make."""
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value += 1
    elif isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.Constant(None)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif inside and (call or isinstance(node, ast.Assign | ast.AugAssign | ast.Raise)):
        node.__class__ = ast.Pass
    else:
        return False
    return True


def places(source):
    """Return the numbers of the nodes of which a fault can be made."""
    return [i for i, place in enumerate(list(parts(ast.parse(source)))) if change(*place)]


def mutant(source, number):
    """Return a module with the fault of that number, as ast writes it, and what that changes."""
    tree = ast.parse(source)
    change(*list(parts(tree))[number])
    texts = [ast.unparse(each).split("\n") for each in (ast.parse(source), ast.fix_missing_locations(tree))]
    lines = list(difflib.unified_diff(*texts, n=0, lineterm=""))[2:]
    return "\n".join(texts[1]), "  ".join(" ".join(line.split()) for line in lines if line[0] in "-+")


def passes(copy, module):
    """Tell whether the tests of a module pass in the copy; in a fork, so that what is heavy is imported once."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
        os.chdir(copy)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        test = f"tests/{Path(module).parent}/test_{Path(module).name}"
        os._exit(pytest.main(["-x", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider", test]))
    return os.waitpid(child, 0)[1] == 0


def judge(copy, sources, drawn):
    """Yield whether each fault is noticed, and what it was."""
    whole = functools.cache(functools.partial(passes, copy))
    for module, number in drawn:
        text, what = mutant(sources[module], number)
        (copy / PACKAGE / module).write_text(text)
        alive = passes(copy, module)
        (copy / PACKAGE / module).write_text(sources[module])
        yield "SURVIVED" if alive else "killed" if whole(module) else "broken", f"{module}: {what}"


def main():
    """Draw faults of what is named, run the tests of each, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("where", nargs="*", default=["signals", "learning", "dataset"])
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    files = [
        p for at in asked.where for p in sorted((ROOT / PACKAGE).glob(at if at.endswith(".py") else f"{at}/**/*.py"))
    ]
    sources = {p.relative_to(ROOT / PACKAGE).as_posix(): p.read_text() for p in files if p.name != "__init__.py"}
    every = [(module, number) for module, source in sources.items() for number in places(source)]
    drawn = random.Random(asked.seed).sample(every, min(asked.n, len(every)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for name in (PACKAGE, "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy.parent / "shared").symlink_to(ROOT.parent / "shared")
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}  # for the tests' own child processes
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True
        for name in HEAVY:
            importlib.import_module(name)
        verdicts = []
        for verdict, what in judge(copy, sources, drawn):
            verdicts.append(verdict)
            print(f"{len(verdicts):4d} {verdict:8s} {what}", flush=True)
        print(f"{verdicts.count('killed')} of {len(verdicts)} killed; seed {asked.seed}, of {len(every)} possible")


if __name__ == "__main__":
    main()
