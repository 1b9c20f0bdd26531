"""A folder that is replaced is wholly the old or wholly the new one, whenever the run that replaces it is killed."""

import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
from group.parts import group_words
from small import content, run, run_fresh, start

from bids_fmmtc.errors import BusyError, OutputError
from bids_fmmtc.group import swap

NAMES = ("a.tsv", "b.json", "deep/c.tsv", "deep/deeper/d.tsv")


def ours(path):
    return path.as_posix() in NAMES or path.name.endswith(".tmp")


def write(folder, version):
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{version}\n" * 50)


def replaced(folder, version):
    with swap.building(folder, ours) as new:
        write(new, version)
        swap.put_in_place(new, folder, ours)


def unfinished(folder, version, error):
    with swap.building(folder, ours) as new:
        write(new, version)
        raise error


def version_of(folder):
    """The one version all files are of."""
    (version,) = {(folder / name).read_text() for name in NAMES}
    assert version == version[: version.index("\n") + 1] * 50
    return int(version.split("\n")[0])


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """Both ways of replacing; file systems that cannot exchange are not at hand everywhere."""
    if request.param == "two renames":
        monkeypatch.setattr(swap, "_exchanged", lambda one, other: False)
    return request.param


def test_a_new_folder_and_one_that_replaces_it(tmp_path, way):
    folder = tmp_path / "group" / "x"
    replaced(folder, 1)
    assert version_of(folder) == 1
    replaced(folder, 2)
    assert version_of(folder) == 2
    assert hidden(tmp_path / "group") == []


def test_files_of_others_stay_and_ours_of_before_go(tmp_path, way):
    folder = tmp_path / "x"
    replaced(folder, 1)
    (folder / "notes.txt").write_text("mine")
    (folder / "deep" / "mine.md").write_text("mine too")
    (folder / "link").symlink_to(tmp_path)
    with swap.building(folder, ours) as new:
        (new / "a.tsv").write_text("new")
        swap.put_in_place(new, folder, ours)
    assert sorted(content(folder)) == ["a.tsv", "deep/mine.md", "notes.txt"]
    assert (folder / "link").is_symlink()
    assert hidden(tmp_path) == []


def test_what_is_not_put_in_place_changes_nothing(tmp_path):
    folder = tmp_path / "group" / "x"
    with pytest.raises(ValueError, match="half"):
        unfinished(folder, 1, ValueError("half done"))
    assert not folder.parent.exists()
    replaced(folder, 1)
    with pytest.raises(KeyboardInterrupt):
        unfinished(folder, 2, KeyboardInterrupt())
    assert version_of(folder) == 1
    assert hidden(folder.parent) == []


def test_two_runs_do_not_build_one_folder(tmp_path):
    with swap.building(tmp_path / "x", ours) as new:
        write(new, 1)
        with pytest.raises(BusyError, match="another run works on"), swap.building(tmp_path / "x", ours):
            pass
        swap.recover(tmp_path, ours)  # leaves the work of others alone
        assert version_of(new) == 1
        with swap.building(tmp_path / "y", ours):
            pass


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "group").write_text("")
    with pytest.raises(OutputError, match="cannot write beside"), swap.building(tmp_path / "group" / "x", ours):
        pass


def test_a_kill_between_two_renames_is_mended(tmp_path):
    folder = tmp_path / "x"
    replaced(folder, 1)
    (folder / "notes.txt").write_text("mine")
    write(tmp_path / ".x.new", 2)
    (tmp_path / ".x.lock").touch()
    folder.rename(tmp_path / ".x.old")
    swap.recover(tmp_path, ours)
    assert version_of(folder) == 1
    assert (folder / "notes.txt").is_file()
    assert hidden(tmp_path) == []
    # One rename later: the new one is there, and only what is not ours comes over from the old.
    folder.rename(tmp_path / ".x.old")
    write(folder, 3)
    swap.recover(tmp_path, ours)
    assert version_of(folder) == 3
    assert (folder / "notes.txt").read_text() == "mine"
    assert hidden(tmp_path) == []


def _replace_for_ever(folder, exchange, version):
    if not exchange:
        swap._exchanged = lambda one, other: False
    while True:
        version += 1
        replaced(folder, version)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_killed_at_any_moment_it_is_one_or_the_other(tmp_path, exchange):
    rng = random.Random(8)
    folder = tmp_path / "group" / "x"
    replaced(folder, 0)
    (folder / "notes.txt").write_text("mine")
    last = 0
    for _ in range(12):
        child = multiprocessing.get_context("fork").Process(target=_replace_for_ever, args=(folder, exchange, last))
        child.start()
        time.sleep(0.05 + rng.random() * 0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        if exchange:
            assert version_of(folder) >= last
        swap.recover(folder.parent, ours)
        assert version_of(folder) >= last
        last = version_of(folder)
        assert (folder / "notes.txt").read_text() == "mine"
        assert hidden(folder.parent) == []
    assert last > 12


def test_a_reader_never_finds_half_of_it(tmp_path):
    folder = tmp_path / "x"
    replaced(folder, 0)
    stop = threading.Event()

    def work():
        version = 0
        while not stop.is_set():
            version += 1
            replaced(folder, version)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for _ in range(200):
            assert (folder / "a.tsv").read_text().count("\n") == 50
    finally:
        stop.set()
        writer.join()


@pytest.mark.slow
def test_a_group_run_killed_over_an_analysis_leaves_the_old_or_the_new_one(root):
    """Two commands that differ in one figure; each is killed at random moments over what the other left."""
    short = ("--permutations", "0", "--no-explanation", "--folds", "2", "--inner-folds", "2", "--repeats", "1")
    words = group_words(root, *short, "--analysis-label", "x")
    lines = {rate: [*words, "--control-rate", rate] for rate in ("0.2", "0.3")}
    folder, whole, took = root / "out" / "group" / "x", {}, 0.0
    for rate, way in zip((*lines, *lines), (run, run, run, run_fresh), strict=True):
        began = time.monotonic()
        done = way(lines[rate])
        took = time.monotonic() - began
        assert done.returncode == 0, done.stdout + done.stderr
        assert whole.setdefault(rate, content(folder)) == content(folder)
    assert whole["0.2"] != whole["0.3"]
    rng, now, seen = random.Random(4), "0.3", set()
    for i in range(10):
        rate = "0.2" if now == "0.3" else "0.3"
        child = start(lines[rate])
        # Half anywhere, half near the end, where folders change places; waiting is only for the moment to differ.
        time.sleep(took * (rng.random() if i % 2 else 0.7 + 0.3 * rng.random()))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        found = content(folder)
        assert found in whole.values()
        now = next(each for each, of in whole.items() if of == found)
        seen.add(child.returncode)
    assert -signal.SIGKILL in seen
    rate = "0.2" if now == "0.3" else "0.3"
    assert run(lines[rate]).returncode == 0
    assert content(folder) == whole[rate]
    assert hidden(folder.parent) == []
