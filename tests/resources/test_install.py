"""Placing fetched files: whole or not at all, even on a full disk or with several at once."""

import shutil
import threading

import pytest
from served import IMAGE, TABLE, in_cache, local, sha

from bids_fmmtc import resources
from bids_fmmtc.errors import DataError, OutputError
from bids_fmmtc.resources import download, install


def test_full_disk_is_an_output_error(tmp_path):
    def fill(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        install.install(tmp_path, "x", fill, {}, DataError, keep=True)
    assert in_cache(tmp_path) == []


def test_folder_that_cannot_be_moved_keeps_the_former(tmp_path):
    target = local(tmp_path / "target", kept=b"former")
    scratch = local(tmp_path / "scratch")
    with pytest.raises(FileNotFoundError):
        install._publish(scratch / "new", target)  # there is no such folder
    assert in_cache(target) == ["kept"]


def test_two_at_once_leave_one_whole_folder(tmp_path):
    source = local(tmp_path / "usb", **{IMAGE: b"image" * 9999, TABLE: b"table"})
    sums = {IMAGE: sha(b"image" * 9999), TABLE: sha(b"table")}
    failures = []

    def run():
        try:
            download.fetch_atlas(tmp_path / "c", source=source, checksums=sums)
        except OutputError as error:  # one may find the place taken at the very moment of renaming
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) < 4
    assert resources.find_resource("atlas", [tmp_path / "c"]) is not None
    shutil.rmtree(tmp_path / "c")
