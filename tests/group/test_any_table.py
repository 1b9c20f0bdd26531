"""Five hundred tables as people send them, seeded: read rightly, or refused in one line; never a number of its own.

Each is a table of twelve people with features. It is spelt in some way that means the same, and then, in most cases,
cells of it say that they are missing or hold a code, or bytes of it are changed. What it means is worked out here by
splitting lines at tabs, and nothing else.
"""

import math
import random

import numpy as np
import pytest
from outputs import Output

from bids_fmmtc.cli import main, parse
from bids_fmmtc.errors import FmmtcError
from bids_fmmtc.group.study import load_study

N, CASES, BATCHES = 12, 500, 10
LABELS = [f"{i:02d}" for i in range(1, N + 1)]
MISSING = ("", " ", "n/a", "N/A", "NA", "na", "#N/A", "NULL", "NaN", "<NA>", "n.a.", "\u00a0")
CODES = ("-99", "999", "-999", "9999", "-99.0", "unknown", "not available", "?", "missing")
KINDS = {
    # column of the outcome -> options, its cells, and what a cell means
    "binary": ((), ("0", "1", "1.0"), float),
    "words": ((), ("yes", "no", "Yes"), lambda cell: float(cell.casefold() == "yes")),
    "named": (("--responder-if", "==remitted"), ("remitted", "ill"), lambda cell: float(cell == "remitted")),
    "limit": (("--responder-if", ">=20"), ("-9", "35", "20", "0", "19.5", "60"), lambda cell: float(float(cell) >= 20)),
    "number": ((), ("-9", "35", "21.5", "4", "50", "12", "7"), float),
}
BESIDE = {"arm": ("drug", "placebo"), "site": ("north", "south"), "age": ("31", "44.5", "60", "52"), "sex": ("F", "M")}
OPTIONS = ("--arm-column", "arm", "--site-column", "site", "--covariates", "age", "sex")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Features of twelve people; the table is written anew for each case."""
    root = tmp_path_factory.mktemp("any-table")
    output = Output(root / "out", source=root / "bids")
    for label in LABELS:
        output.add(f"sub-{label}_task-rest", windows=1)
    return root


def table_of(rng, kind):
    """Header and rows that mean something: both classes, every word of each column."""
    header = ["participant_id", "y", *BESIDE]
    columns = [[cells[i % len(cells)] for i in range(N)] for cells in (KINDS[kind][1], *BESIDE.values())]
    for column in columns:
        rng.shuffle(column)
    return header, [[f"sub-{label}", *cells] for label, *cells in zip(LABELS, *columns, strict=True)]


def with_missing(rng, header, rows):
    for _ in range(rng.randint(1, 4)):
        rng.choice(rows)[rng.randrange(1, len(header))] = rng.choice(MISSING)


def with_code(rng, header, rows):
    """A code where numbers stand, or a word for missing in any column."""
    place = rng.randrange(1, len(header))
    cells = [row[place] for row in rows]
    numbers = all(cell.lstrip("-").replace(".", "").isdigit() for cell in cells)
    code = rng.choice(CODES if numbers else CODES[5:])
    for row in rng.sample(rows, rng.randint(1, 2)):
        row[place] = code
    return code


def spelt(rng, header, rows):
    """Bytes of a table, in one of the ways that mean the same."""
    order = list(range(len(header)))
    if rng.random() < 0.5:
        rng.shuffle(order)
    lines = [[row[i] for i in order] for row in (header, *rows)]
    if rng.random() < 0.3:
        lines.insert(rng.randrange(1, len(lines)), list(lines[0]))  # two tables, one after the other
    if rng.random() < 0.3:
        lines.append(list(lines[rng.randrange(1, len(lines))]))  # a line twice
    if rng.random() < 0.3:
        lines[1:] = rng.sample(lines[1:], len(lines) - 1)
    who = order.index(0)
    for line in lines[1:]:
        line[who] = line[who].removeprefix("sub-") if rng.random() < 0.2 else line[who]
        if rng.random() < 0.2:
            line[:] = [f" {cell}  " for cell in line]
    end = rng.choice(["\n", "\r\n", "\r"])
    text = end.join("\t".join(line) for line in lines) + rng.choice(["", end, end * 3, f"{end}\t\t{end}"])
    return rng.choice(["", "\ufeff"]).encode() + text.encode()


def damaged(rng, data):
    """Change bytes as a bad disk, a bad copy or a bad editor does."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        how = rng.randrange(6)
        if how == 0:
            del data[at:]
            data = data or bytearray(b"\n")
        elif how == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            data[at:at] = bytes(rng.choices(b'\t\n\r" ,;0919-.eNA\x00\xff', k=rng.randint(1, 4)))
        elif how == 3:
            del data[at : at + rng.randint(1, 30)]
            data = data or bytearray(b"\n")
        elif how == 4:
            data[at:at] = data[rng.randrange(len(data)) :][: rng.randint(1, 60)]
        else:
            data = bytearray(
                bytes(data).decode("utf-8-sig", "replace").encode(rng.choice(["utf-16", "latin-1"]), "replace")
            )
    return bytes(data)


def plainly(data):
    """Column -> participant -> cells, by splitting at line ends and tabs; None where quotes make that too plain."""
    text = data.decode("utf-8-sig")
    if '"' in text:
        return None
    lines = [line.split("\t") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    header = [cell.strip() for cell in lines[0]]
    found = {name: {} for name in header}
    for line in lines[1:]:
        cells = dict(zip(header, (cell.strip() for cell in line), strict=False))
        if cells == dict(zip(header, header, strict=True)):
            continue
        for name in header:
            label = cells["participant_id"].removeprefix("sub-").strip()
            found[name].setdefault(f"sub-{label}", set()).add(cells.get(name, ""))
    return found


def absent(cell):
    return cell.strip().casefold() in {word.strip().casefold() for word in MISSING} | {".", "nan", "#na", "-nan"}


def check(study, data, kind, codes=()):
    """Every number of the cohort is the one in the table, and whoever has none is not in it."""
    told, means = plainly(data), KINDS[kind][2]
    cohort = study.cohort
    assert len(cohort) + len({e.key for e in study.exclusions} - set(cohort.keys)) >= N
    if told is None:
        return
    for i, whom in enumerate(cohort.subjects):
        cells = {name: next(iter(told[name][whom])) for name in ("y", *BESIDE)}
        assert all(len(told[name][whom]) == 1 for name in cells), whom  # lines that contradict each other are refused
        assert not absent(cells["y"]), (whom, cells)
        assert cells["y"] not in codes
        expected = means(cells["y"]) if study.cohort.kind == "classification" else float(cells["y"])
        assert cohort.y[i] == expected, (whom, cells)
        assert cohort.sites[i] == cells["site"]
        assert not absent(cells["site"])
        assert cohort.arms[i] == ("n/a" if absent(cells["arm"]) or cells["arm"] in codes else cells["arm"])
        age = cohort.covariates["age"][i, 0]
        assert math.isnan(age) if absent(cells["age"]) or cells["age"] in codes else age == float(cells["age"])
    kept = set(cohort.subjects)
    for whom in (f"sub-{label}" for label in LABELS):
        cells = told["y"].get(whom, {""}) | told["site"].get(whom, {""})
        if len(cells) == 2 and not any(absent(cell) or cell in codes for cell in cells):
            assert whom in kept, whom


def words(root, kind, *more):
    given = ["group", "--outcome", "y", *KINDS[kind][0], *OPTIONS, "-w", str(root / "work"), *more]
    return [str(root / "bids"), str(root / "out"), *given]


def study_of(root, kind, *more):
    """What is learnt from, or the error that refuses the table."""
    try:
        return load_study(parse(words(root, kind, *more), {}), root / "work", "cpu", lambda _: None)
    except FmmtcError as error:
        return error


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_table_is_read_rightly_or_refused(dataset, batch):
    path, outcomes = dataset / "bids" / "participants.tsv", {"read": 0, "refused": 0}
    for case in range(batch, CASES, BATCHES):
        rng = random.Random(case)
        kind, what = rng.choice(sorted(KINDS)), rng.choice(["same", "missing", "code", "settled", "damaged", "damaged"])
        header, rows = table_of(rng, kind)
        code = None
        if what == "missing":
            with_missing(rng, header, rows)
        elif what in ("code", "settled"):
            code = with_code(rng, header, rows)
        data = spelt(rng, header, rows)
        data = damaged(rng, data) if what == "damaged" else data
        path.write_bytes(data)
        where = f"case {case} ({kind}, {what}): {data!r}"
        study = study_of(dataset, kind, *(["--missing-code", code] if what == "settled" else []))
        if isinstance(study, FmmtcError):
            outcomes["refused"] += 1
            assert what in ("code", "damaged") or "each class" in str(study), f"{where}: {study}"
            assert "\n" not in str(study), where
            continue
        outcomes["read"] += 1
        assert what != "code", where  # a code that nobody has settled
        try:
            check(study, data, kind, (code,) if code else ())
        except AssertionError as wrong:
            raise AssertionError(f"{where}: {wrong}") from None
    assert min(outcomes.values()) > 5, outcomes


def test_at_the_command_line_it_is_a_code_and_one_line(dataset, capsys):
    path, codes = dataset / "bids" / "participants.tsv", set()
    for case in range(40):
        rng = random.Random(1000 + case)
        kind = rng.choice(sorted(KINDS))
        path.write_bytes(damaged(rng, spelt(rng, *table_of(rng, kind))))
        code = main(words(dataset, kind, "--dry-run"))
        said = capsys.readouterr()
        codes.add(code)
        assert code in (0, 18, 65, 66), said.err
        assert "Traceback" not in said.err
        assert sum("error:" in line for line in said.err.splitlines()) == (code != 0), said.err
    assert {0, 65} <= codes
    assert np.isin(list(codes), (0, 18, 65, 66)).all()
