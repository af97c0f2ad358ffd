"""Folders that one mesh uses at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wardmesh_cli.embedded.errors import DataFolderInUse
from wardmesh_cli.embedded.files import FolderLock


def test_a_folder_is_locked_for_one_and_says_for_whom(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(DataFolderInUse, match=rf"process {os.getpid()}: .*another folder"):
        FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path):
        pass


def test_a_lock_ends_with_its_process_and_is_not_inherited(tmp_path: Path) -> None:
    program = f"""if True:
        import os, subprocess, sys
        from pathlib import Path
        from wardmesh_cli.embedded.files import FolderLock
        FolderLock(Path({str(tmp_path)!r})).acquire()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, text=True, close_fds=True
    )
    try:
        os.kill(int(done.stdout), 0)  # the child of the one that died is alive
        with FolderLock(tmp_path):
            pass
    finally:
        os.kill(int(done.stdout), 9)
