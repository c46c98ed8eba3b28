"""How many cores a process may keep busy."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from headrace.shards.machine import core_numbers, cores, cpu_quota

V1 = "4:memory:/box\n3:cpu,cpuacct:{group}\n0::/\n"
V1_MOUNT = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
V2_MOUNT = "31 23 0:28 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = "30 23 0:27 / /tmp rw - tmpfs tmpfs rw\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def system(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """A folder with the files that a system tells of its control groups; `__` in a name is a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups, encoding="utf-8")
    (root / "proc/self/mountinfo").write_text(OTHERS + mounts, encoding="utf-8")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def v2(root: Path, group: str = "/", top: str = "/", **limits: str) -> float:
    files = {f"{where}__cpu.max".strip("_"): text for where, text in limits.items()}
    return cpu_quota(system(root, f"0::{group}\n", V2_MOUNT.format(top=top), **files))


def test_a_container_of_version_2_says_its_quota(tmp_path):
    assert v2(tmp_path, **{"": "250000 100000\n"}) == 2.5


def test_no_quota_is_no_limit(tmp_path):
    assert v2(tmp_path, **{"": "max 100000\n"}) == math.inf


def test_the_least_of_a_group_and_those_above_it_counts(tmp_path):
    limits = {"": "max 100000", "pod": "150000 100000", "pod__box": "400000 100000"}
    assert v2(tmp_path, "/pod/box", **limits) == 1.5


def test_a_tree_that_begins_at_the_containers_group(tmp_path):
    assert v2(tmp_path, "/docker/4f", "/docker/4f", **{"": "300000 100000"}) == 3.0


def test_a_path_of_the_host_that_is_not_to_be_seen_from_here(tmp_path):
    assert v2(tmp_path, "/../../elsewhere", **{"": "200000 100000"}) == 2.0


@pytest.mark.parametrize(("quota", "expected"), [("350000", 3.5), ("-1", math.inf)])
def test_version_1(tmp_path, quota, expected):
    files = {
        "cpu,cpuacct__docker__4f__cpu.cfs_quota_us": quota,
        "cpu,cpuacct__docker__4f__cpu.cfs_period_us": "100000",
    }
    root = system(tmp_path, V1.format(group="/docker/4f"), V1_MOUNT.format(top="/"), **files)
    assert cpu_quota(root) == expected


def test_a_container_of_version_1_sees_its_group_at_the_top(tmp_path):
    files = {"cpu,cpuacct__cpu.cfs_quota_us": "50000", "cpu,cpuacct__cpu.cfs_period_us": "100000"}
    root = system(tmp_path, V1.format(group="/docker/4f"), V1_MOUNT.format(top="/docker/4f"), **files)
    assert cpu_quota(root) == 0.5
    assert cores(root) == 1  # a part of one counts as one


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path) == math.inf


def test_a_file_that_says_nothing_sensible_is_no_limit(tmp_path):
    assert v2(tmp_path, **{"": "a lot\n"}) == math.inf


def test_cores_are_those_that_a_process_may_run_on_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert cores(tmp_path) == 64
    system(tmp_path, "0::/\n", V2_MOUNT.format(top="/"), **{"cpu.max": "350000 100000"})
    assert cores(tmp_path) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {9, 12, 3, 30, 7}, raising=False)
    assert core_numbers(tmp_path) == (3, 7, 9, 12)


def test_a_system_that_pins_no_process_has_all_its_cores(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cores(tmp_path) == 8
