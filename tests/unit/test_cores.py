"""How many cores a process may use: what it is bound to, and what its control groups allow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ffdist.cores import available_cores, cpu_quota

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 25 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "31 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def made(system: Path, mounts: str, own: str, files: dict[str, str]) -> Path:
    """A file system's root that describes control groups."""
    for name, text in {"proc/self/mountinfo": OTHER + mounts, "proc/self/cgroup": own, **files}.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text)
    return system


@pytest.mark.parametrize(("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("50000 100000", 0.5)])
def test_the_quota_of_a_container_with_its_own_groups(text: str, quota: float | None, tmp_path: Path) -> None:
    system = made(tmp_path, V2.format(root="/"), "0::/\n", {"sys/fs/cgroup/cpu.max": text})
    assert cpu_quota(system) == quota


def test_the_smallest_quota_of_the_groups_above_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/cpu.max": "300000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "200000 100000",
        "sys/fs/cgroup/a/b/c/cpu.max": "max 100000",
    }
    assert cpu_quota(made(tmp_path, V2.format(root="/"), "0::/a/b/c\n", files)) == 2


def test_the_first_version_of_groups_where_the_container_sees_its_own_alone(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct"
    files = {f"{folder}/cpu.cfs_quota_us": "100000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    own = "5:memory:/docker/1a\n4:cpu,cpuacct:/docker/1a\n0::/docker/1a\n"
    assert cpu_quota(made(tmp_path, V1.format(root="/docker/1a"), own, files)) == 1
    (tmp_path / folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path) is None


def test_there_is_no_quota_where_nothing_describes_one(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_half_a_core_is_one_and_no_more_than_the_process_is_bound_to(tmp_path: Path) -> None:
    system = made(tmp_path, V2.format(root="/"), "0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000"})
    assert available_cores(system) == 1
    (system / "sys/fs/cgroup/cpu.max").write_text("99900000 100000")
    assert available_cores(system) == len(os.sched_getaffinity(0))


def test_a_real_group_limits_what_runs_in_it() -> None:
    parent = Path("/sys/fs/cgroup/cpu")
    if not os.access(parent, os.W_OK) or not (parent / "cpu.cfs_quota_us").parent.exists():
        pytest.skip("a control group needs root, and groups of version 1")
    group = parent / f"ffdist-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        code = (
            f"import os; open({str(group / 'tasks')!r}, 'w').write(str(os.getpid()))\n"
            "from ffdist.cores import cpu_quota; print(cpu_quota())"
        )
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout == "1.0\n"
    finally:
        group.rmdir()
