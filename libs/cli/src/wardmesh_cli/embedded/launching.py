"""What happens in a child between fork and exec: it ties its life to ours, and may give up root.

What always holds, on Linux: when the process that started the child dies, however it dies, the kernel sends the child
its `death_signal`. Elsewhere there is no such promise; `wardmesh_cli.embedded.leftovers` ends them at the next start.
(The kernel counts the thread that forked as the parent: start children from one that lives as long as they should.)

PostgreSQL refuses to run as root. `RunAs` makes the child another account. Where that account could not even reach the
data folder (a home that is closed to others), the child keeps one capability, to walk through closed folders.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, slots=True)
class RunAs:
    """Another account to run as; only root can."""

    uid: int
    gid: int
    walks_through_closed_folders: bool = False


def in_child(death_signal: signal.Signals, run_as: RunAs | None) -> Callable[[], None]:
    """Return what the child does before it becomes the program (`preexec_fn`)."""
    if sys.platform != "linux":
        return _become(run_as, None)
    libc = ctypes.CDLL(None, use_errno=True)  # loaded here: between fork and exec nothing may be imported
    parent = os.getpid()
    become = _become(run_as, libc)

    def prepare() -> None:
        become()
        # After the change of account: the kernel forgets the signal when the account changes.
        if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(127)

    return prepare


def _become(run_as: RunAs | None, libc: ctypes.CDLL | None) -> Callable[[], None]:
    if run_as is None:
        return lambda: None
    account = run_as

    def become() -> None:
        keep = account.walks_through_closed_folders and libc is not None
        if keep and libc is not None:
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        # Containers usually grant the wider capability only; the narrower one is tried first.
        if keep and libc is not None and not (_keep(libc, _CAP_DAC_READ_SEARCH) or _keep(libc, _CAP_DAC_OVERRIDE)):
            os._exit(127)

    return become


def _keep(libc: ctypes.CDLL, capability: int) -> bool:
    """Keep one capability, through exec too; drop all others."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; low words, high words
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        return False
    return bool(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0)
