"""Optimisers that torch does not have, or not as the loop wants them."""

from headrace.train.optimizers.lars import LARS
from headrace.train.optimizers.muon import Muon
from headrace.train.optimizers.several import Several
from headrace.train.optimizers.sgd import SGD

__all__ = ["LARS", "SGD", "Muon", "Several"]
