"""The parts of `headrace.benchmarks.methods`: sets, trainings, their records, speed, and the table."""
