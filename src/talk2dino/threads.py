"""How many threads to use, and how they wait for each other.

torch's threads (OpenMP) spin while they wait, which is fast on an idle machine and slow on a busy one: a thread that has
lost its core to another process lets the others burn theirs. Both settings below are read by OpenMP when torch is loaded,
so :func:`prepare` must run before that. Variables that the user has set are never changed.

Measured with two threads on two cores, alone and with another process busy on one of them:

    segment with micro     spinning 0.023 s alone, 0.1 to 0.6 s beside;   passive 0.023 and 0.024
    segment with ViT-B     spinning 0.268 s alone, 0.688 s beside;        passive 0.265 and 0.373
    train on micro         spinning 8.7 s alone, 109 s beside;            passive 16.8 and 10.0;   one thread 9.3 and 9.4

So threads wait passively, and small work gets one thread.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

#: Any of these is a decision of the user about waiting.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: FLOP of one operation per thread below which another thread costs more in waiting than it computes: above the products
#: of training on micro's features (9 MFLOP), below those of micro's blocks at 128 x 128 (57 MFLOP).
FLOP_PER_THREAD = 20e6


def prepare(threads: int | None = None) -> None:
    """Decide, before torch is loaded, on waiting and on the number of threads.

    Args:
        threads: number of threads (``--threads``); None: what the user's environment says, else as many as the process
            has cores.
    """
    set_wait_policy()
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    elif cgroup_cores() is not None and available_cores() < affinity_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))  # OpenMP knows the affinity, not the quota


def set_wait_policy() -> bool:
    """Let threads wait passively, unless the user has decided on it or torch is loaded. Whether it was done."""
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return False
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return True


def choose_threads(flop: float) -> int:
    """Number of threads for work whose typical operation (a matrix product) takes ``flop``.

    It follows from the work alone, not from the load. $OMP_NUM_THREADS, which ``--threads`` sets, is the most.
    """
    most = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    limit = int(most) if most.isdigit() and int(most) > 0 else available_cores()
    return max(1, min(limit, int(flop / FLOP_PER_THREAD)))


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its control group."""
    quota = cgroup_cores()
    return affinity_cores() if quota is None else max(1, min(affinity_cores(), math.floor(quota)))


def affinity_cores() -> int:
    """Cores that the scheduler gives this process (``taskset``)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """CPU quota in cores (``docker run --cpus 1.5``), the smallest on the way up; None: unlimited, or not Linux.

    Args:
        root: the file system's root; tests give a folder.
    """
    found = [quota for quota in _quotas(root) if quota is not None]
    return min(found, default=None)


def _quotas(root: Path) -> Iterator[float | None]:
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = [*group.split(":", 2), "", ""][:3]
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        mounts = [root / "sys/fs/cgroup" / name for name in ((controllers, "cpu") if controllers else ("", "unified"))]
        read = _quota_v1 if controllers else _quota_v2
        for mount in mounts:
            folder = mount / path.lstrip("/")
            while folder.is_relative_to(mount):  # a container sees its own group as the root of the mount
                yield read(folder)
                folder = folder.parent


def _quota_v2(folder: Path) -> float | None:
    values = _words(folder / "cpu.max")  # "150000 100000", or "max 100000"
    return _ratio(values[0], values[1]) if len(values) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    values = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]  # -1: unlimited
    return _ratio(values[0], values[1]) if len(values) == 2 else None


def _ratio(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) and int(quota) else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
