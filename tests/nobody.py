"""Another user, to whom a folder can be closed: root looks into every one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def closed(*folders: Path) -> Iterator[None]:
    """Close folders for as long as a block runs, and run it as somebody who is not root."""
    for folder in folders:
        folder.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o755)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody can reach; pytest's own are its user's alone."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)
