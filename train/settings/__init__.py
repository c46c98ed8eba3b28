"""Configs as plain values: what YAML and the command line say, and how dataclasses come of it."""
