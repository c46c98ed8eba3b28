"""What is read of a machine while it is measured."""

from __future__ import annotations

from headrace.benchmarks import machine


def test_time_that_the_host_gave_to_others_counts_as_used(monkeypatch):
    line = "cpu  100 20 30 4000 500 6 7 800 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    monkeypatch.setattr(machine, "_read", lambda path: line if path == "/proc/stat" else "")
    assert machine.machine_cpu_s() == (100 + 20 + 30 + 6 + 7 + 800) / machine.TICKS_PER_S
