"""Headrace measured beside its peers; `benchmarks/README.md` says how."""
