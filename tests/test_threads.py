"""Threads: control groups of both versions in folders made here, the environment, and the rule for small work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from talk2dino import threads


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*threads.WAITING, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "x")  # so that it is restored
        monkeypatch.delenv(name)


def group(root, line, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line + "\n")
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return threads.cgroup_cores(root)


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}, 2),  # the parent is tighter
        ("0::/elsewhere", {"cpu.max": "50000 100000"}, 0.5),  # a path of the host, not visible in the container
        ("0::/../..", {"cpu.max": "50000 100000"}, 0.5),
        ("4:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu,cpuacct:/x", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("3:cpuset:/x", {"cpuset/x/cpu.cfs_quota_us": "100000", "cpuset/x/cpu.cfs_period_us": "100000"}, None),
        ("0::/", {"cpu.max": "damaged"}, None),
        ("0::/", {"cpu.max": "100000 0"}, None),
        ("no group", {}, None),
    ],
)  # fmt: skip
def test_cpu_quota(tmp_path, line, files, cores):
    assert group(tmp_path, line, files) == cores


def test_no_control_groups(tmp_path):
    assert threads.cgroup_cores(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (32.0, 8)])
def test_cores_follow_affinity_and_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cgroup_cores", lambda: quota)
    assert threads.available_cores() == cores


def test_small_work_gets_one_thread(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 6)
    assert threads.choose_threads(2 * 128 * 192 * 192) == 1  # training on micro's features
    assert threads.choose_threads(2 * 259 * 192 * 576) == 2  # micro's blocks
    assert threads.choose_threads(2 * 1029 * 768 * 2304) == 6  # ViT-B's
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads.choose_threads(2 * 1029 * 768 * 2304) == 3


def test_the_user_decides(monkeypatch):
    for name in threads.WAITING:
        monkeypatch.setenv(name, "7")
        assert not threads.set_wait_policy()
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert not threads.set_wait_policy()  # too late
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize(
    ("given", "affinity", "user", "expected"),
    [(None, 8, None, "2"), (None, 2, None, None), (None, 8, "5", "5"), (3, 8, "5", "3")],
)
def test_number_of_threads(monkeypatch, given, affinity, user, expected):
    """A quota of two cores: told to OpenMP where it does not follow from the affinity."""
    monkeypatch.setattr(threads, "affinity_cores", lambda: affinity)
    monkeypatch.setattr(threads, "cgroup_cores", lambda: 2.0)
    if user:
        monkeypatch.setenv("OMP_NUM_THREADS", user)
    threads.prepare(given)
    assert os.environ.get("OMP_NUM_THREADS") == expected


def test_before_torch_is_loaded():
    code = (
        "import sys\nfrom talk2dino.threads import prepare\nprepare(1)\n"
        "import os\nprint(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
        "import torch\nprint(torch.get_num_threads())"
    )
    env = {name: value for name, value in os.environ.items() if name not in (*threads.WAITING, "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout.split() == ["passive", "False", "1"], done.stderr
