"""Encoders in the formats of other programs, each loaded and compared before it is put in its place."""
