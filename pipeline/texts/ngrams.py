"""Which words of a text a model has to fill in, several neighbours at a time: ALBERT's n-grams (1909.11942)."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit

_STREAM = key_word(0x6E6772616D)  # the word "ngram"
_SIXTEEN, _NONE = np.uint64(16), np.uint64(0)


@kernel
def mask_ngrams(seed, epoch, sample_ids, number, lengths, special, words, wanted, longest, chosen, count):
    """Mark the tokens to predict in `chosen`, bool (B, L), and count them; see `headrace.pipeline.TokenMask`.

    Words come in a random order; from each, n neighbours are taken, n up to `longest` with a probability of 1 / n,
    fewer where they would have more tokens than are still wanted, and none where one of them has been taken.
    Neighbours may stand on both sides of special tokens. Where every word has more tokens than are wanted, as many of
    the first one's are taken.

    Source: google-research/albert at b772393, create_pretraining_data.py, create_masked_lm_predictions.
    """
    begins = np.empty(chosen.shape[1], np.int64)
    ends = np.empty(chosen.shape[1], np.int64)
    order = np.empty(chosen.shape[1], np.int64)
    shares = np.cumsum(1.0 / np.arange(1, longest + 1))
    for i in range(len(sample_ids)):
        sample = np.uint64(sample_ids[i])
        found = 0
        shortest = chosen.shape[1] + 1
        for place in range(lengths[i]):
            if special[i, place]:
                continue
            if place == 0 or special[i, place - 1] or words[i, place] != words[i, place - 1]:
                begins[found] = place
                order[found] = found
                found += 1
            ends[found - 1] = place + 1
        for word in range(found):
            shortest = min(shortest, ends[word] - begins[word])
        for step in range(found):
            if count[i] >= wanted[i]:
                break
            draw = philox(seed, _STREAM, np.uint64(step) << _SIXTEEN | number, _NONE, sample, epoch)
            other = step + np.int64(unit(draw[0]) * (found - step))
            order[step], order[other] = order[other], order[step]
            word = order[step]
            if shortest > wanted[i]:
                begin = begins[word] + np.int64(unit(draw[2]) * (ends[word] - begins[word] - wanted[i] + 1))
                chosen[i, begin : begin + wanted[i]] = True
                count[i] = wanted[i]
                break
            n = 1
            while n < longest and unit(draw[1]) * shares[longest - 1] >= shares[n - 1]:
                n += 1
            while n >= 1:
                tokens = 0
                for each in range(word, min(word + n, found)):
                    tokens += ends[each] - begins[each]
                if count[i] + tokens <= wanted[i]:
                    break
                n -= 1
            taken = n == 0
            for each in range(word, min(word + n, found)):
                taken |= chosen[i, begins[each]]
            if taken:
                continue
            for each in range(word, min(word + n, found)):
                chosen[i, begins[each] : ends[each]] = True
                count[i] += ends[each] - begins[each]
