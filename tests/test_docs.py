"""The docs say what the program does: links, commands, options, columns, files, codes.

Tables between ``<!-- columns: NAME -->`` or ``<!-- options: NAME -->`` and ``<!-- end -->`` are made from the
program's own descriptions. ``python tests/test_docs.py`` writes them anew.
"""

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

import bids_fmmtc
from bids_fmmtc import cli, console, demo, errors, fetch, quality
from bids_fmmtc.dataset.derivatives import collate, sidecars
from bids_fmmtc.group import results
from bids_fmmtc.learning.explaining import checks as attribution_checks
from bids_fmmtc.learning.explaining import tables as attribution_tables
from bids_fmmtc.learning.judging import metrics
from bids_fmmtc.report.kit import words
from bids_fmmtc.results import trial as trial_plan
from bids_fmmtc.signals.quality import FLAGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = Path(bids_fmmtc.__file__).parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = sorted(DOCS.glob("*.md"))
OUTPUTS = DOCS / "outputs.md"
REWRITE = "python tests/test_docs.py writes the tables anew"


def text_of(path):
    return path.read_text(encoding="utf-8")


def ids(paths):
    return [p.relative_to(ROOT).as_posix() for p in paths]


# ----------------------------------------------------------------------------------------------------------- generated


def plain(columns):
    """Column -> its description as a sidecar has it."""
    return {k: {"Description": v} if isinstance(v, str) else v for k, v in columns.items()}


def without(columns, others):
    return {k: v for k, v in columns.items() if k not in others}


def sidecar_columns(write):
    """Columns and descriptions that a function of ``group.results`` writes into a folder, read from the JSON."""
    with TemporaryDirectory() as folder:
        write(Path(folder))
        (found,) = Path(folder).glob("*.json")
        content = json.loads(text_of(found))
    return {k: v for k, v in content.items() if isinstance(v, dict)}


def comparison(kind):
    return lambda folder: results.write_comparison(
        SimpleNamespace(cohort=SimpleNamespace(kind=kind), folder=folder), {}
    )


def out_of_fold(folder):
    cohort = SimpleNamespace(kind="classification", keys=(), y=(), sites=None, arms=None, subjects=())
    outcomes = SimpleNamespace(definition="The outcome, as evaluation.json defines it")
    results.write_predictions(
        SimpleNamespace(cohort=cohort, folder=folder, outcomes=outcomes), SimpleNamespace(value=None, label=None)
    )


def left_out(folder):
    results.write_exclusions(SimpleNamespace(exclusions=(), folder=folder))


COLUMNS = {
    "scans": lambda: sidecars.SCANS_COLUMNS,
    "frames": lambda: sidecars.FRAME_COLUMNS,
    "prediction": lambda: sidecars.PREDICTION_COLUMNS,
    "predictions": lambda: without(collate.LONG_COLUMNS, sidecars.PREDICTION_COLUMNS),
    "quality": lambda: without(collate.QUALITY_TABLE, sidecars.SCANS_COLUMNS),
    "exclusions": lambda: sidecar_columns(left_out),
    "out-of-fold": lambda: sidecar_columns(out_of_fold),
    "comparison": lambda: without(sidecar_columns(comparison("classification")), metric_columns("classification")),
    "classification": lambda: metric_columns("classification"),
    "regression": lambda: metric_columns("regression"),
    "shares": lambda: attribution_tables.SHARE_COLUMNS,
    "parcels": lambda: attribution_tables.PARCEL_COLUMNS,
    "edges": lambda: attribution_tables.EDGE_COLUMNS,
    "networks": lambda: attribution_tables.NETWORK_COLUMNS,
    "sanity": lambda: attribution_checks.SANITY_COLUMNS,
    "compared": lambda: attribution_checks.COMPARISON_COLUMNS,
    "trial": lambda: trial_plan.COLUMNS,
}


def metric_columns(kind):
    names = metrics.CLASSIFICATION if kind == "classification" else metrics.REGRESSION
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return {k: v for k, v in sidecar_columns(comparison(kind)).items() if k in ends}


def described():
    """Every mapping from columns to descriptions that a module of the package holds under a name of its own."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(["bids_fmmtc", *path.relative_to(PACKAGE).with_suffix("").parts])
        if name.endswith(("__init__", "__main__")):
            continue
        for key, value in vars(importlib.import_module(name)).items():
            if isinstance(value, Mapping) and value and re.search(r"COLUMNS$|_TABLE$", key) and texts(value):
                found[f"{name}.{key}"] = value
    return found


def texts(columns):
    return all(isinstance(v, str) or (isinstance(v, Mapping) and "Description" in v) for v in columns.values())


def columns_table(columns):
    """Markdown rows; an estimate and the ends of its interval share one."""
    lines = ["| column | what it holds | unit |", "|---|---|---|"]
    for name, about in plain(columns).items():
        if name.rpartition("_")[0] in columns and name.endswith(("_low", "_high")):
            continue
        ends = [end for end in (f"{name}_low", f"{name}_high") if end in columns]
        said = about["Description"].rstrip(".") + ("; and the ends of its 95 % interval" if ends else "")
        said += "".join(f"; `{level}`: {what}" for level, what in about.get("Levels", {}).items())
        shown = ", ".join(f"`{n}`" for n in (name, *ends))
        lines.append(f"| {shown} | {escaped(said)} | {about.get('Units', '')} |")
    return "\n".join(lines)


def escaped(text):
    return text.replace("|", "\\|")


def parsers():
    """Name -> parser of every command; the demo makes its own while it runs."""
    made = []

    def catch(parser, *_):
        made.append(parser)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(SystemExit):
            demo.main([])
    (sub,) = [a for a in fetch.build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    kinds = {f"bids_fmmtc-fetch {name}": parser for name, parser in sub.choices.items()}
    return {"bids_fmmtc": cli.build_parser(), "bids_fmmtc-demo": made[0], **kinds}


def options_of(parser):
    return [a for a in parser._actions if a.option_strings and a.help != argparse.SUPPRESS and a.dest != "help"]


def options_table(parser):
    lines = ["| option | what it does |", "|---|---|"]
    for action in options_of(parser):
        value = "" if action.nargs == 0 else f" {action.metavar or '|'.join(action.choices or (action.dest.upper(),))}"
        more = " ..." if action.nargs == "+" else ""
        names = ", ".join(f"`{escaped(name + value + more)}`" for name in action.option_strings)
        said = (action.help or "").replace("%(default)s", str(action.default)).replace("program's", "the")
        lines.append(f"| {names} | {escaped(said)} |")
    return "\n".join(lines)


BLOCK = re.compile(r"(<!-- (columns|options): ([^>]+?) -->\n)(.*?)(\n?<!-- end -->)", re.DOTALL)


def made_anew(text):
    """The text of a page with its generated tables as they should be."""

    def table(match):
        name = match[3]
        made = columns_table(COLUMNS[name]()) if match[2] == "columns" else options_table(parsers()[name])
        return f"{match[1]}{made}\n<!-- end -->"

    return BLOCK.sub(table, text)


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_tables_are_those_of_the_program(page):
    assert text_of(page) == made_anew(text_of(page)), REWRITE


def test_every_table_of_columns_and_options_is_in_the_docs():
    there = {(m[2], m[3]) for page in PAGES for m in BLOCK.finditer(text_of(page))}
    assert there == {("columns", n) for n in COLUMNS} | {("options", n) for n in parsers()}


def documented_columns():
    """Names in first cells of all tables of columns in outputs.md, generated ones or not."""
    names = set()
    inside = False
    for line in text_of(OUTPUTS).splitlines():
        inside = line.startswith("| column |") or (inside and line.startswith("|"))
        if inside:
            names |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return names


def test_every_column_the_program_can_write_is_documented_and_no_other():
    # Those of quality are keys of a record; as columns they have a prefix, in SCANS_COLUMNS.
    found = [c for c in described().values() if c is not quality.COLUMNS]
    known = {column for columns in found for column in columns}
    known |= {column for columns in COLUMNS.values() for column in columns()}
    known |= set(console.COLUMNS) | atlas_columns() | {"desc_id", "description", "mean_<class>", "<parcel>"}
    assert documented_columns() == known


def atlas_columns():
    """Names in the table of an atlas, as the function that writes it spells them."""
    tree = ast.parse(text_of(PACKAGE / "dataset" / "derivatives" / "describe.py"))
    (function,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_parcel"]
    (row,) = [n for n in ast.walk(function) if isinstance(n, ast.Dict)]
    return {key.value for key in row.keys}


# ------------------------------------------------------------------------------------------------------ links, sources


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1", re.DOTALL | re.MULTILINE)


def prose(path):
    return CODE.sub("", text_of(path))


def anchors(path):
    """Anchors as GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [*PAGES, README, CONTRIBUTING], ids=ids([*PAGES, README, CONTRIBUTING]))
def test_links_and_images_resolve(page):
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_source_files_named_in_the_text_exist(page):
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.py)`", prose(page)))
    lost = [n for n in named if not any((folder / n).is_file() for folder in (ROOT, PACKAGE))]
    # Files that a reader is to make are named in add-an-encoder.md only.
    made = ("newone", "octants") if page.name == "add-an-encoder.md" else ()
    assert not [n for n in lost if not any(word in n for word in made)]


def test_the_index_names_every_page():
    linked = set(LINK.findall(text_of(DOCS / "README.md")))
    assert {p.name for p in PAGES} - {"README.md"} <= linked
    assert any(target.startswith("docs/") for target in LINK.findall(text_of(README))), "README links no docs"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_prose_follows_the_house_rules(page):
    text = text_of(page)
    assert "\u2014" not in text
    assert not re.search(r"\b(color|analyze|behavior|center|randomization|normalization)\b", prose(page))


# ------------------------------------------------------------------------------------------------------------ commands


def commands(path):
    """(program, words) of every command of ours in fenced bash blocks, options of containers left out."""
    for block in re.findall(r"^```bash\n(.*?)^```", text_of(path), re.DOTALL | re.MULTILINE):
        for line in whole_lines(block):
            yield from ours(shlex.split(line, comments=True))


def whole_lines(block):
    """Lines of a script; one that ends in a backslash, or inside quotes, is one with those that follow."""
    held = ""
    for line in block.replace("\\\n", " ").splitlines():
        held += f"{line}\n"
        try:
            shlex.split(held, comments=True)
        except ValueError:
            continue
        yield held
        held = ""
    assert not held, f"quotes are not closed: {held}"


def ours(split):
    """Find our programs among the words of a line, each with its words up to the next shell operator."""
    programs = {"bids_fmmtc", "bids_fmmtc-demo", "bids_fmmtc-fetch"}
    places = [i for i, w in enumerate(split) if re.split(r"[/=]", w)[-1].removesuffix(".sif") in programs]
    if not places or split[0] in ("cd", "export", "ls", "git") or {"build", "save", "mkdir"} & set(split[:2]):
        return
    start = places[-1] if split[0] in ("docker", "apptainer", "podman") else places[0]
    words_ = split[start + 1 :]
    stops = [i for i, w in enumerate(words_) if w in {"|", ">", "2>", "&&", ";", "||"}]
    yield Path(split[start]).name.removesuffix(".sif"), words_[: min(stops, default=len(words_))]


def test_commands_are_found_where_they_stand():
    line = "docker run -v ~/.cache/bids_fmmtc:/resources:ro bids_fmmtc /data /out group --adapt | tee log"
    assert list(ours(shlex.split(line))) == [("bids_fmmtc", ["/data", "/out", "group", "--adapt"])]
    assert list(ours(shlex.split("docker build -t bids_fmmtc ."))) == []
    assert list(ours(shlex.split("bids_fmmtc-demo demo && ls"))) == [("bids_fmmtc-demo", ["demo"])]


def test_every_page_with_commands_has_some_of_ours():
    assert {p.name for p in PAGES if list(commands(p))} >= {"tutorial.md", "ds000208.md", "outputs.md"}


@pytest.mark.parametrize("page", [*PAGES, README, CONTRIBUTING], ids=ids([*PAGES, README, CONTRIBUTING]))
def test_commands_parse(page, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run_demo", lambda folder, nprocs, encoder: 0)
    for program, given in commands(page):
        try:
            if program == "bids_fmmtc-demo":
                assert demo.main(given) == 0
            elif program == "bids_fmmtc-fetch":
                fetch.build_parser().parse_args(given)
            elif given not in (["--help"], ["--recipe", "list"]):
                assert cli.parse(given, {}).level in cli.LEVELS
        except (SystemExit, errors.FmmtcError) as error:
            pytest.fail(f"{program} {shlex.join(given)}: {error} {capsys.readouterr().err}")


def test_every_option_is_explained():
    told = "".join(map(text_of, [*PAGES, README]))
    for name, parser in parsers().items():
        for action in options_of(parser):
            for option in action.option_strings:
                assert re.search(rf"`{re.escape(option)}(?![\w-])", told), f"{name} {option}"


# ------------------------------------------------------------------------------------------ codes, kinds, flags, files


def rows_after(marker):
    """Rows of the table that follows a marker in outputs.md, as lists of cells."""
    table = text_of(OUTPUTS).split(f"<!-- {marker} -->\n", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def names_after(marker):
    return {name for row in rows_after(marker) for name in re.findall(r"`([^`]+)`", row[0])}


def test_exit_codes_are_ours():
    codes = {v for n, v in vars(errors).items() if n.startswith("EXIT_")}
    assert {row[0] for row in rows_after("exit codes")} == {*map(str, codes), "128 + n"}


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_kinds_of_failure_are_ours():
    known = {each.kind for each in subclasses(errors.FmmtcError) if each.__module__.startswith("bids_fmmtc")}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Failure", "replace"}:
                given = node.args[2:3] if ast.unparse(node.func) == "Failure" else []
                given += [k.value for k in node.keywords if k.arg == "kind"]
                known |= {a.value for a in given if isinstance(a, ast.Constant)}
    # The network is met by bids_fmmtc-fetch only, whose failures are no rows of a table.
    assert names_after("kinds") == known - {"download"}


def test_flags_are_ours():
    known = set(FLAGS) | set(words.FLAG_WORDS) | {f"{prefix}:..." for prefix in words.PREFIX_WORDS}
    assert names_after("flags") == known


def pattern(name):
    """Regular expression of a path in the tables of files: <placeholders>, *, [optional parts], {one,of,these}."""
    made = re.escape(name)
    made = re.sub(r"<[^>]*>", r"[^/]+", made.replace(r"\<", "<").replace(r"\>", ">"))
    made = made.replace(r"\*", "[^/]*").replace(r"\[", "(?:").replace(r"\]", ")?")
    return re.sub(r"\\\{(.*?)\\\}", lambda m: f"(?:{m[1].replace(',', '|')})", made)


def documented_files():
    return [n for marker in ("files: dataset", "files: participant", "files: group") for n in names_after(marker)]


def test_patterns_of_files_match_what_they_should():
    given = pattern("sub-<label>/[ses-<label>/]func/*_qc.{tsv,json}")
    assert re.fullmatch(given, "sub-01/func/sub-01_task-rest_qc.tsv")
    assert re.fullmatch(given, "sub-01/ses-a/func/sub-01_ses-a_qc.json")
    assert not re.fullmatch(given, "sub-01/func/deeper/sub-01_qc.tsv")


@pytest.mark.slow
def test_every_file_and_every_key_of_an_evaluation_is_documented(tmp_path):
    from group.parts import group_words, make_features, write_inputs

    from bids_fmmtc.group.level import run_group_level

    root = write_inputs(tmp_path, broken=(23,))
    output = make_features(root)
    asked = ("--site-column", "site", "--leave-one-site-out", "--explain", "01", "--control-rate", "0.3")
    asked += ("--reference-protocol", "--epochs", "2", "--permutations", "3")
    assert run_group_level(cli.parse(group_words(root, *asked), {})) == 0
    known = re.compile("|".join(map(pattern, documented_files())))
    written = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    assert not [name for name in sorted(written) if not known.fullmatch(name)]
    found = json.loads(text_of(output / "group" / "responder_linear" / "evaluation.json"))
    assert {name.split(".")[0] for name in names_after("evaluation")} == set(found)
    for dotted in names_after("evaluation"):
        part = found
        for step in dotted.split("."):
            assert isinstance(part, Mapping), dotted
            part = next(iter(part.values())) if step.startswith("<") else part[step]


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(made_anew(text_of(each)), encoding="utf-8")
