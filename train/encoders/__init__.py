"""Networks that turn samples into features, wherever their weights come from: runs, files, names of timm's."""

from headrace.train.encoders.as_method import as_method
from headrace.train.encoders.encoder import Encoder
from headrace.train.encoders.opening import open_encoder
from headrace.train.encoders.preprocessing import describe

__all__ = ["Encoder", "as_method", "describe", "open_encoder"]
