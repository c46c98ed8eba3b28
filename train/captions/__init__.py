"""Captions against references, as coco-caption scores them, without Java."""

from headrace.train.captions.corpus import CaptionScores, score_captions
from headrace.train.captions.meteor_words import MeteorWords, meteor_words
from headrace.train.captions.tokens import caption_words

__all__ = ["CaptionScores", "MeteorWords", "caption_words", "meteor_words", "score_captions"]
