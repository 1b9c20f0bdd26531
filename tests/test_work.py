"""The work folder: ours alone, or refused; locks that follow no link and are held by whoever inherits them."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from patience import patience

from bids_fmmtc import work
from bids_fmmtc.errors import OutputError
from bids_fmmtc.settings import Settings
from bids_fmmtc.work import lock, open_own, open_work, work_folder


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path, tmp_path / "out", "participant", work_dir=tmp_path / "w")


def test_the_work_folder_is_one_per_output(settings, tmp_path):
    mine = replace(settings, work_dir=tmp_path / "w")
    assert work_folder(mine).parent == tmp_path / "w"
    assert work_folder(mine) != work_folder(replace(mine, output_dir=tmp_path / "other"))
    settings = replace(settings, work_dir=None)
    one, other = work_folder(settings), work_folder(replace(settings, output_dir=tmp_path / "other"))
    assert one == work_folder(settings)
    assert one != other


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_it_is_ours_alone_under_any_umask_and_stays_so(settings, umask):
    before = os.umask(umask)
    try:
        folder = open_work(settings)
        (folder / "sub-01").mkdir()
        assert open_work(settings) == folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
    assert (folder / "sub-01").is_dir()


def test_a_folder_that_others_could_only_read_is_closed(settings):
    work_folder(settings).mkdir(parents=True)
    work_folder(settings).chmod(0o755)
    assert stat.S_IMODE(open_work(settings).lstat().st_mode) == 0o700


def a_link(folder):
    folder.with_name("elsewhere").mkdir()
    folder.symlink_to("elsewhere")


def a_link_to_nothing(folder):
    folder.symlink_to("elsewhere")


def a_file(folder):
    folder.write_text("")


def open_to_others(folder):
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize(
    ("make", "words"),
    [(a_link, "is a link"), (a_link_to_nothing, "is a link"), (a_file, "not a folder"),
     (open_to_others, "open to others (mode 0777, expected 0700)")],
)  # fmt: skip
def test_what_somebody_else_put_there_is_refused_with_the_remedy(settings, make, words):
    folder = work_folder(settings)
    folder.parent.mkdir()
    make(folder)
    before = sorted(p.name for p in folder.parent.rglob("*"))
    with pytest.raises(OutputError) as caught:
        open_work(settings)
    assert words in caught.value.message
    assert "--work-dir" in caught.value.hint
    assert sorted(p.name for p in folder.parent.rglob("*")) == before


def test_a_folder_of_another_user_is_refused(settings, monkeypatch):
    open_work(settings)
    monkeypatch.setattr(work.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OutputError, match=f"belongs to another user \\(number {os.getuid()}\\)"):
        open_work(settings)


def test_a_place_that_cannot_be_written_is_one_line(settings, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made: Not a directory"):
        open_work(replace(settings, work_dir=tmp_path / "file" / "w"))


def test_opening_a_lock_neither_follows_nor_cuts_off_what_lies_there(tmp_path):
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OutputError, match="it is a link"), lock(tmp_path / "lock"):
        pass
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").hardlink_to(victim)
    with lock(tmp_path / "lock"):
        pass
    assert victim.read_text() == "years of work"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError):
        open_own(tmp_path / "pipe", os.O_WRONLY)
    with pytest.raises(OutputError, match="not a file of ours"):
        open_own(tmp_path / "pipe", os.O_RDWR)


def is_locked(path: Path) -> bool:
    with path.open("rb+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_child_that_inherits_the_lock_holds_it_after_its_parent(tmp_path):
    path = tmp_path / "lock"
    with lock(path) as held:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held])
        assert is_locked(path)
    assert is_locked(path)
    child.communicate(b"\n", timeout=patience(60))
    assert not is_locked(path)


def test_a_second_run_waits_and_says_so(tmp_path, caplog, monkeypatch):
    code = "import sys; from pathlib import Path; from bids_fmmtc.work import lock\n"
    code += f"with lock(Path({str(tmp_path / 'sub-01' / 'lock')!r})): print('has it', flush=True); input()"
    (tmp_path / "sub-01").mkdir()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "has it\n"
    real = fcntl.flock

    def flock(descriptor, how):
        if not how & fcntl.LOCK_NB:
            child.communicate("\n", timeout=patience(60))  # lets go while we wait
        real(descriptor, how)

    monkeypatch.setattr(work.fcntl, "flock", flock)
    with caplog.at_level("INFO"), lock(tmp_path / "sub-01" / "lock", wait=False):
        assert not caplog.records
    with caplog.at_level("INFO"), lock(tmp_path / "sub-01" / "lock"):
        assert "sub-01: another run works on it; waiting" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_once_and_used(settings, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(work.fcntl, "flock", flock)
    folder = open_work(settings)
    ran = []
    for label in ("01", "02"):
        (folder / label).mkdir()
        with lock(folder / label / "lock"):
            ran.append(label)
    assert ran == ["01", "02"]
    (message,) = [r.getMessage() for r in caplog.records if r.name == work.log.name and r.levelname == "WARNING"]
    assert f"no file locks ({errno.errorcode[number]})" in message
    assert "--work-dir" in message


def test_a_lock_that_fails_for_another_reason_is_refused(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(work.fcntl, "flock", flock)
    with pytest.raises(OutputError, match="cannot lock"), lock(tmp_path / "lock"):
        pass
