"""Sounds: which part of a file, at which rate, as a wave or as a mel spectrogram."""
