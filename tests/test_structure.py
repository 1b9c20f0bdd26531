"""The architecture, read from the sources: who imports whom, what is documented, what is tested."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from patience import patience

import bids_fmmtc
from bids_fmmtc import cli, errors

PACKAGE = Path(bids_fmmtc.__file__).parent
TESTS = Path(__file__).parent

# Room -> rooms it may import. A room is a folder or a module; one not listed here fails the test.
FOUNDATION = {"errors", "reading", "plain", "keys", "states", "quality", "types", "rows", "recipe", "pooling"}
CORE = FOUNDATION | {"settings", "results", "dataset", "signals", "modalities", "learning"}
MAY_IMPORT = {
    "errors": set(),
    "reading": {"errors"},
    "plain": {"errors"},
    "keys": set(),
    "states": set(),
    "quality": {"errors", "plain"},
    "types": {"plain", "keys", "quality"},
    "rows": {"errors", "reading", "plain", "states", "quality", "types"},
    "recipe": {"errors", "reading", "plain"},
    "pooling": {"types", "recipe"},
    "settings": FOUNDATION,
    "results": FOUNDATION - {"pooling"},
    "recipes": {"errors", "recipe"},
    "resources": {"errors", "reading"},
    "dataset": FOUNDATION | {"settings"},
    "signals": FOUNDATION,
    "modalities": FOUNDATION | {"signals", "interrupts"},  # a child that compiles ends with whoever waits for it
    "learning": FOUNDATION | {"results", "signals", "modalities"},
    "report": FOUNDATION | {"results", "dataset", "modalities"},  # what is said of a modality
    "plan": CORE | {"resources", "recipes"},
    "recording": CORE,
    "session": CORE | {"recording"},
    "pages": {"errors", "keys", "reading", "settings", "dataset", "report"},
    "interrupts": set(),
    "guard": {"errors", "interrupts"},
    "work": {"errors", "settings"},
    "participant_process": {"interrupts", "participant"},
    "participant": CORE | {"recording", "session", "pages"},
    "workflow": CORE | {"participant", "interrupts", "work"},
    "console": FOUNDATION | {"settings", "dataset", "workflow"},
    "accounts": FOUNDATION | {"settings", "dataset", "console"},
    "run": CORE | {"resources", "plan", "accounts", "recording", "participant", "pages", "console", "workflow", "work"},
    "group": CORE | {"plan", "recording", "participant", "pages", "run", "work"},
    "usage": {"errors", "group_options"},
    "group_options": {"errors", "reading", "settings"},
    # By name, after parsing: LEVELS.
    "cli": FOUNDATION | {"guard", "work", "settings", "resources", "recipes", "group_options", "usage", "run", "group"},
    "fetch": {"errors", "reading", "guard", "resources", "modalities"},  # modalities in a function, to convert weights
    "synthetic": {"plain", "keys", "recipe", "dataset", "signals", "modalities"},
    "demo": {"errors", "keys", "guard", "dataset", "synthetic", "cli"},
    "__main__": {"cli"},
    "__init__": set(),
}

# Rooms inside a room -> those inside it that they may import; "" are the modules that lie in the room itself.
INSIDE = {
    "dataset": {
        "": set(),
        "find": {""},
        "derivatives": {"", "find"},
        "people": {"", "find", "derivatives"},
    },
    "learning": {
        "": set(),
        "bundle": {""},
        "learners": {"", "bundle"},
        "judging": {"", "bundle", "learners"},
        "explaining": {"", "bundle", "learners", "judging"},
        "trial": {"", "judging"},
    },
    "report": {
        "": {"kit", "analysis"},
        "kit": set(),
        "analysis": {"kit"},
        "participant": {"kit", "analysis"},
        "group": {"kit", "analysis"},
    },
}

# Lines of a module; an encoder is one file.
MOST_LINES = 450
LONGER = {"modalities/brainlm.py", "modalities/neurostorm.py"}

# Outside package -> the only modules that may import it; a trailing slash names a folder.
ONLY_IN = {
    "bids": ("dataset/find/discover.py",),
    "nipype": ("workflow.py",),
    # The options of a training checkpoint are a namespace of argparse.
    "argparse": ("cli.py", "usage.py", "group_options.py", "fetch.py", "demo.py", "modalities/neurostorm_weights.py"),
    "captum": ("learning/explaining/explain.py",),
    "statsmodels": ("learning/trial/enrich.py",),
    "matplotlib": ("report/",),
    "jinja2": ("report/",),
    "markupsafe": ("report/",),
    "torch": (
        "modalities/brainlm.py",
        "modalities/neurostorm.py",
        "modalities/neurostorm_heads.py",
        "modalities/neurostorm_modality.py",
        "modalities/neurostorm_weights.py",
        "modalities/numerics.py",
        "learning/",
        "synthetic.py",
        "participant.py",
        "run.py",
    ),
    "mamba_ssm": ("modalities/neurostorm.py",),
    "numba": ("modalities/neurostorm_kernels.py",),
    "llvmlite": ("modalities/neurostorm_code.py", "modalities/neurostorm_kernels.py"),
    "transformers": ("learning/bundle/head.py",),
    "nilearn": ("signals/clean.py", "signals/denoise.py", "signals/regressors.py", "synthetic.py", "report/"),
    "pooch": ("resources/download.py",),
    "huggingface_hub": ("resources/download.py",),
    "templateflow": ("resources/download.py",),
    "urllib": ("resources/download.py",),
    "requests": ("resources/download.py",),
    "socket": ("resources/download.py",),
    "http": ("resources/download.py",),
    "ssl": ("resources/download.py",),
    "ftplib": ("resources/download.py",),
    "httpx": ("resources/download.py",),
    "aiohttp": ("resources/download.py",),
    "pickle": (),
    "cPickle": (),
    "dill": (),
    "cloudpickle": (),
    "joblib": (),
    "shelve": (),
    "marshal": (),
}
# Package -> modules that may import it only inside a function.
IN_FUNCTIONS = {
    "torch": ("synthetic.py", "participant.py", "run.py", "learning/bundle/load.py"),
    "mamba_ssm": ("modalities/neurostorm.py",),
    "llvmlite": ("modalities/neurostorm_code.py", "modalities/neurostorm_kernels.py"),
    "bids": ("dataset/find/discover.py",),
    "nilearn": ("signals/clean.py", "signals/denoise.py", "signals/regressors.py", "synthetic.py"),
    "scipy": ("signals/clean.py", "signals/placement.py", "signals/spaces.py", "signals/windows.py"),
    "transformers": ("learning/bundle/head.py",),
    "captum": ("learning/explaining/explain.py",),
    "statsmodels": ("learning/trial/enrich.py",),
    "pooch": ("resources/download.py",),
    "huggingface_hub": ("resources/download.py",),
    "templateflow": ("resources/download.py",),
}

# Our modules that import something heavy, or that need not be installed, at their top; others import them only inside a
# function.
LATE = {"bids_fmmtc.modalities.neurostorm_kernels": "numba"}

# Module -> the variable of a library that it reads, as it keeps what the library would keep there.
OF_LIBRARIES = {"modalities/neurostorm_code.py": "NUMBA_CACHE_DIR"}

# Modules without a test file of the mirrored name, and why.
WITHOUT_TESTS = {
    "__init__.py": "version only",
    "__main__.py": "run by every child process of test_cli.py",
    "dataset/__init__.py": "empty",
    **{f"{room}/{inner}/__init__.py": "empty" for room, rooms in INSIDE.items() for inner in rooms if inner},
    "signals/__init__.py": "empty",
    "results/__init__.py": "empty",
    "learning/__init__.py": "empty",
    "group/__init__.py": "empty",
    "report/__init__.py": "empty",
}


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


TREES = {name_of(p): ast.parse(p.read_text(encoding="utf-8")) for p in sorted(PACKAGE.rglob("*.py"))}
TEST_TEXT = {
    p.relative_to(TESTS).as_posix(): p.read_text(encoding="utf-8") for p in sorted(TESTS.rglob("*.py")) if p.is_file()
}


def module_of(name):
    return ".".join(["bids_fmmtc", *Path(name).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(name): name for name in TREES}


def room_of(name):
    return Path(name).parts[0].removesuffix(".py")


def imported(node, name):
    """Modules of an import statement; ``from a import b`` counts as ``a.b`` where that is a module of ours."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert not node.level, f"{name}:{node.lineno} is a relative import"
    base = node.module or ""
    inner = {f"{base}.{alias.name}" for alias in node.names} & MODULES.keys()
    plain = len(inner) < len(node.names)
    return [*inner, *([base] if plain else [])]


@cache
def imports(name, *, top_only=False):
    """(module, line) of every import, those in functions too; ``top_only`` leaves these and type checking out."""
    return tuple(_imports(name, top_only=top_only))


def _imports(name, *, top_only):
    tree = TREES[name]
    skipped = set()
    if top_only:
        for node in ast.walk(tree):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only:
                skipped |= set(map(id, ast.walk(node)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in skipped:
            for module in imported(node, name):
                yield module, node.lineno
    if not top_only:
        yield from named_in_strings(tree)


def named_in_strings(tree):
    """Modules that are handed to import_module, as in LEVELS and modalities.TABLE."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, _ = node.value.partition(":")
            if colon and module in MODULES:
                yield module, node.lineno


def ours(name, **options):
    return {(m, line) for m, line in imports(name, **options) if m.split(".")[0] == "bids_fmmtc" and m in MODULES}


# imports among ourselves


@pytest.mark.parametrize("name", TREES)
def test_imports_go_one_way(name):
    room = room_of(name)
    allowed = MAY_IMPORT[room] | {room, "__init__"}
    wrong = [f"line {line}: {m}" for m, line in ours(name) if room_of(MODULES[m]) not in allowed]
    assert not wrong, f"{name} may import {sorted(allowed)}, found {wrong}"


def room_inside(name):
    parts = Path(name).parts
    return parts[1] if len(parts) > 2 else ""


@pytest.mark.parametrize("name", [n for n in TREES if room_of(n) in INSIDE])
def test_inside_a_room_imports_go_one_way_too(name):
    rooms = INSIDE[room_of(name)]
    allowed = rooms[room_inside(name)] | {room_inside(name)}
    same = {(m, line) for m, line in ours(name) if room_of(MODULES[m]) == room_of(name)}
    wrong = [f"line {line}: {m}" for m, line in same if room_inside(MODULES[m]) not in allowed]
    assert not wrong, f"{name} may import {sorted(allowed)} of its room, found {wrong}"


@pytest.mark.parametrize("room", INSIDE)
def test_rooms_inside_a_room_have_no_circle(room):
    assert set(TopologicalSorter(INSIDE[room]).static_order()) == set(INSIDE[room])
    assert {room_inside(name) for name in TREES if room_of(name) == room} == set(INSIDE[room])


@pytest.mark.parametrize("name", TREES)
def test_no_module_is_too_long_to_be_read(name):
    lines = len((PACKAGE / name).read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES or name in LONGER, (
        f"{name} has {lines} lines: find the noun that wants a file of its own"
    )


def test_rooms_have_no_circle():
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("errors") < order.index("dataset") < order.index("run") < order.index("cli")
    assert set(order) == set(MAY_IMPORT)


def test_modules_have_no_circle_even_in_functions():
    graph = {module: {m for m, _ in ours(name)} - {module, "bids_fmmtc"} for module, name in MODULES.items()}
    # A table in a package's __init__ names its own modules, which it loads when asked to.
    for package in ("bids_fmmtc.modalities",):
        graph[package] = {m for m in graph[package] if not m.startswith(f"{package}.")}
    TopologicalSorter(graph).prepare()


def test_the_command_line_imports_levels_only_after_parsing():
    top = {m for m, _ in ours("cli.py", top_only=True)}
    assert top <= {
        "bids_fmmtc",
        "bids_fmmtc.errors",
        "bids_fmmtc.guard",
        "bids_fmmtc.usage",
        "bids_fmmtc.group_options",
        "bids_fmmtc.resources",
    }


def test_resources_is_standard_library_only():
    roots = {m.split(".")[0] for m, _ in imports("resources/__init__.py")} - {"bids_fmmtc"}
    assert roots <= set(sys.stdlib_module_names)


def test_types_need_numpy_only():
    roots = {m.split(".")[0] for m, _ in imports("types.py")} - set(sys.stdlib_module_names)
    assert roots <= {"bids_fmmtc", "numpy"}


# names of encoders

# Where an encoder may be known by its name: its own files and its line in the table, where its weights come from, the
# default recipe and the demo. Everything else asks the table.
NAMED_IN = {
    "brainlm": (
        *("modalities/brainlm.py", "modalities/brainlm_config.py", "modalities/token_order.py"),
        *("modalities/__init__.py", "resources/", "fetch.py", "synthetic.py", "recipes.py"),
        "modalities/neurostorm_weights.py",  # which tells whose file it was given
    ),
    "neurostorm": (
        *("modalities/neurostorm.py", "modalities/neurostorm_config.py", "modalities/neurostorm_heads.py"),
        *("modalities/neurostorm_code.py", "modalities/neurostorm_kernels.py"),
        *("modalities/neurostorm_modality.py", "modalities/neurostorm_weights.py"),
        *("modalities/__init__.py", "resources/", "fetch.py", "recipes.py", "synthetic.py"),
    ),
}


@cache
def words_of(tree):
    """Everything a program does with words: names, attributes, imports, and strings that are no docstring."""
    docs, words = set(), []
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                docs.add(id(one.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            words.append(node.value)
        named = [getattr(node, field, None) for field in ("id", "attr", "name", "module", "arg")]
        words += [word for word in named if isinstance(word, str)]
    return words


@pytest.mark.parametrize("encoder", NAMED_IN)
def test_an_encoder_is_known_by_its_name_only_at_home(encoder):
    users = {name for name, tree in TREES.items() if any(encoder in word.lower() for word in words_of(tree))}
    assert not {name for name in users if not within(name, NAMED_IN[encoder])}


# what is known once

# Who takes names apart at their underscores: keys, names of fields, and names of other people's files.
SPLIT_NAMES = {"keys.py", "results/record.py"}
OTHERS_NAMES = {"signals/atlas.py", "dataset/find/beside.py", "dataset/find/discover.py", "dataset/folders.py"}


def test_keys_are_taken_apart_in_one_place():
    """`bids_fmmtc.keys.Key`; names in the input are spelled by others, and are read where they are found."""
    splits = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"split", "rsplit", "partition", "rpartition"}
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == "_"
    }
    assert splits == SPLIT_NAMES | OTHERS_NAMES


# imports of others


def within(name, places):
    return any(name == p or (p.endswith("/") and name.startswith(p)) for p in places)


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_only_where_it_belongs(package):
    users = {name for name in TREES for m, _ in imports(name) if m.split(".")[0] == package}
    assert all(within(name, ONLY_IN[package]) for name in users), f"{package} in {sorted(users)}"
    # What has gone elsewhere must leave the list too.
    unused = [p for p in ONLY_IN[package] if not any(within(name, [p]) for name in users)]
    networks = {"urllib", "requests", "socket", "http", "ssl", "ftplib", "httpx", "aiohttp"}
    assert not unused or package in networks


@pytest.mark.parametrize("package", IN_FUNCTIONS)
def test_a_heavy_package_waits_until_it_is_needed(package):
    for name in IN_FUNCTIONS[package]:
        assert package not in {m.split(".")[0] for m, _ in imports(name, top_only=True)}, name


@pytest.mark.parametrize("module", LATE)
def test_a_module_that_needs_a_heavy_package_waits_until_it_is_needed(module):
    top = {name: {m for m, _ in imports(name, top_only=True)} for name in TREES}
    assert {name for name in TREES if LATE[module] in {m.split(".")[0] for m in top[name]}} == {MODULES[module]}
    assert not [name for name in TREES if module in top[name]]
    assert [name for name in TREES for m, _ in ours(name) if m == module], f"nobody imports {module}"


def test_only_the_programs_read_the_environment():
    readers = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            attribute = isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "putenv"}
            named = isinstance(node, ast.ImportFrom) and node.module == "os"
            if attribute or (named and {a.name for a in node.names} & {"environ", "environb", "getenv"}):
                readers.add(name)
    assert readers <= {"cli.py", "fetch.py", *OF_LIBRARIES}


@pytest.mark.parametrize("name", OF_LIBRARIES)
def test_a_library_s_variable_is_read_by_its_name_and_is_one_that_the_command_line_sets(name):
    reads = [
        ast.unparse(n) for n in ast.walk(TREES[name]) if isinstance(n, ast.Call) and "environ" in ast.unparse(n.func)
    ]
    attributes = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.Attribute) and n.attr == "environ"]
    assert reads == [f"os.environ.get('{OF_LIBRARIES[name]}')"]
    assert len(attributes) == 1
    assert OF_LIBRARIES[name] in cli._CACHES


def test_torch_reads_files_as_weights_only_and_numpy_without_objects():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if ast.unparse(node.func) in {"torch.load", "torch.jit.load", "torch.hub.load"}:
                assert ast.unparse(node.func) == "torch.load", f"{name}:{node.lineno}"
                assert keywords.get("weights_only") == "True", f"{name}:{node.lineno}"
            assert keywords.get("allow_pickle", "False") == "False", f"{name}:{node.lineno}"
            assert ast.unparse(node.func) not in {"eval", "exec", "yaml.load", "os.system"}, f"{name}:{node.lineno}"


def loaded_by(code, *words):
    """Top-level packages that a real child process has loaded at its end."""
    tail = "import sys; sys.stderr.write('\\nLOADED ' + ' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    run = subprocess.run(
        [sys.executable, "-c", f"import atexit\natexit.register(lambda: exec({tail!r}))\n{code}", *words],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option):
    found = loaded_by("import runpy\nrunpy.run_module('bids_fmmtc', run_name='__main__', alter_sys=True)", option)
    assert "bids_fmmtc" in found
    heavy = {"numpy", "scipy", "torch", "nipype", "bids", "nilearn", "nibabel", "pandas", "sklearn", "transformers"}
    assert not found & (heavy | {"requests", "yaml", "tqdm"})


def test_the_extraction_path_imports_only_what_it_needs():
    """A child process starts once a participant, so every import is paid that often."""
    code = "import bids_fmmtc.participant\nfrom bids_fmmtc.modalities import load_modality\n"
    code += "from bids_fmmtc.recipe import Recipe\nr = Recipe()\nload_modality(r.modalities[0], r, None)"
    found = loaded_by(code)
    assert {"numpy", "nibabel"} <= found
    heavy = {"torch", "nilearn", "transformers", "sklearn", "pandas", "bids", "nipype", "safetensors", "matplotlib"}
    assert not found & (heavy | {"numba", "llvmlite"})


# documentation


def public(tree):
    """(qualified name, node) of public functions, classes and methods."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.ClassDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("name", TREES)
def test_everything_public_is_documented(name):
    assert ast.get_docstring(TREES[name]), f"{name} has no docstring"
    # The Protocols of types.py describe their attributes in the docstring of the class.
    told = ("Windowed.", "Volumes.")
    missing = [q for q, n in public(TREES[name]) if not ast.get_docstring(n) and not q.startswith(told)]
    assert not missing


def test_no_room_is_called_utils():
    assert not [n for n in TREES if Path(n).stem in {"utils", "util", "helpers", "misc", "common"}]


# tests


@pytest.mark.parametrize("name", [n for n in TREES if n not in WITHOUT_TESTS])
def test_every_module_has_its_test_file(name):
    path = Path(name)
    # A package's __init__ is tested under the package's name.
    stem = path.parent.name if path.stem == "__init__" else path.stem
    parent = path.parent.parent if path.stem == "__init__" else path.parent
    expected = {(path.parent / f"test_{stem}.py").as_posix(), (parent / f"test_{stem}.py").as_posix()}
    assert expected & TEST_TEXT.keys(), f"{name} wants one of {sorted(expected)}"


def seconds_by_the_clock(tree):
    """Lines that wait for a fixed number of seconds, or until a fixed number from now."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "timeout" and isinstance(node.value, ast.Constant):
            yield node.value.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.right, ast.Constant):
            left = ast.unparse(node.left)
            if left in {"time.monotonic()", "time.time()", "time.perf_counter()", "monotonic()", "perf_counter()"}:
                yield node.lineno


@pytest.mark.parametrize("name", TEST_TEXT)
def test_deadlines_follow_the_machine(name):
    found = list(seconds_by_the_clock(ast.parse(TEST_TEXT[name])))
    assert not found, (
        f"{name} has deadlines by the clock in lines {found}: write patience(seconds), of tests/patience.py"
    )


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_what_is_there(path):
    """Most import inside functions, which no test runs."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "") in MODULES:
            there = set(re.findall(r"\w+", (PACKAGE / MODULES[node.module]).read_text(encoding="utf-8")))
            absent = {a.name for a in node.names if f"{node.module}.{a.name}" not in MODULES} - there
            assert not absent, f"line {node.lineno}: {node.module} has no {absent}"


def test_exceptions_are_still_exceptions():
    assert WITHOUT_TESTS.keys() <= TREES.keys()
    assert not [n for n in WITHOUT_TESTS if not n.startswith("__") and TREES[n].body[1:]]


ERRORS = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.FmmtcError)]


@cache
def called():
    """Names of everything that is called, but in errors.py."""
    nodes = (node for name, tree in TREES.items() if name != "errors.py" for node in ast.walk(tree))
    return {ast.unparse(node.func).split(".")[-1] for node in nodes if isinstance(node, ast.Call)}


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_every_error_is_raised_and_tested(error):
    assert error.__name__ in called(), f"nobody raises {error.__name__}"
    named = re.compile(rf"\b{error.__name__}\b")
    # In the table of codes of test_errors.py every class stands; that says nothing of who raises it.
    assert any(named.search(text) for name, text in TEST_TEXT.items() if name != "test_errors.py")


# what is known once

# String-key reads, x["name"] and x.get("name"): where values have types there are few. The numbers may only fall.
MOST_READS = {
    # of what an evaluation holds
    ("learning/judging/", "learning/trial/", "group/", "report/analysis/", "report/group/sections.py"): 54,
    # of anything
    ("learning/", "group/", "report/"): 241,
}
MOST_LOOSE = 61
"""Mapping[str, Any] and dict[str, Any] in the package; the number may only fall."""


def reads(tree):
    """Lines that read by a string key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            key = node.args[0] if node.args else None
        else:
            continue
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield node.lineno


@pytest.mark.parametrize("places", MOST_READS, ids=len)
def test_values_are_read_by_their_fields(places):
    found = {name: len(list(reads(tree))) for name, tree in TREES.items() if within(name, places)}
    assert sum(found.values()) <= MOST_READS[places], f"give what is read a type: {found}"


def test_types_are_not_any():
    loose = {"Mapping[str, Any]", "dict[str, Any]"}
    found = {
        name: n
        for name, tree in TREES.items()
        if (n := sum(isinstance(node, ast.Subscript) and ast.unparse(node) in loose for node in ast.walk(tree)))
    }
    assert sum(found.values()) <= MOST_LOOSE, f"give what is passed on a type: {found}"


def test_an_interval_is_held_against_a_level_in_one_place():
    """By `Estimate.above`, `Estimate.below` and `Quantity.above`; what is better than chance, by `verdict.better`."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            ends = {"low", "high", "p"} if name.startswith(("learning/trial", "group/", "report/")) else {"p"}
            held = isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr in ends
            if held and any(isinstance(op, ast.Gt | ast.Lt) for op in node.ops):
                assert name.startswith("results/"), f"{name}:{node.lineno}: {ast.unparse(node)}"


def test_measures_and_their_chance_are_described_in_one_place():
    from bids_fmmtc.results.measures import MEASURES

    words = {m.words for m in MEASURES.values() if " " in m.words or m.words[0].isupper()}
    for name, tree in TREES.items():
        if name == "results/measures.py":
            continue
        strings = {
            n.value: n.lineno for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        }
        assert not words & strings.keys(), f"{name}: {words & strings.keys()} stands in results/measures.py"
        named = {t.id for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.AnnAssign) for t in targets(n)}
        assert not {"CHANCE", "PRIMARY", "SIGNIFICANT"} & named or name == "results/verdict.py", name


def targets(node):
    some = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [each for each in some if isinstance(each, ast.Name)]


def test_results_need_numpy_only():
    roots = {m.split(".")[0] for name in TREES if name.startswith("results/") for m, _ in imports(name)}
    assert roots - set(sys.stdlib_module_names) <= {"bids_fmmtc", "numpy"}
