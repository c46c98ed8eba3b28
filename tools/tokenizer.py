"""A tokenizer of a shard set's own texts, as the library `tokenizers` trains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

from headrace.pipeline.texts.texts import text_field, texts_of
from headrace.shards import ShardError, ShardSet
from headrace.tools.errors import UserError

Kind = Literal["bpe", "wordpiece", "unigram"]
"""bpe: byte-level byte-pair encoding, as RoBERTa's (1907.11692). wordpiece: lower-cased, as BERT's (1810.04805).
unigram: as T5's (1910.10683), with the sentinels of its spans."""
SENTINELS = 100
"""<extra_id_0> and so on, as T5 has them."""

LETTERS = 1000
"""Different letters of a wordpiece or unigram tokenizer at most: the commonest."""
PAIRS = {
    "bpe": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "wordpiece": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "unigram": ("$A </s>", "$A </s> $B </s>"),
}
SPECIAL = {
    "bpe": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "wordpiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "unigram": ["<pad>", "</s>", "<unk>"],
}


def train_tokenizer(
    shards: ShardSet, kind: Kind, vocabulary: int, *, on_text: Callable[[int], object] = lambda samples: None
) -> Any:
    """A `tokenizers.Tokenizer` of at most `vocabulary` tokens, the special ones counted; every text of the first of
    `headrace.pipeline.texts.texts.TEXT_FIELDS` that the set has is read. The same texts give the same tokenizer.

    Args:
        on_text: called with the number of samples that have been read.

    Raises:
        ImportError: if the library is missing.
        UserError: if the set has no texts, or the vocabulary no room for them beside the special tokens.
        ShardError: for a sample that cannot be decoded.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(f"texts need the library tokenizers: pip install headrace[text] ({error})") from error
    try:
        field = text_field(shards, None)
    except ValueError as error:
        raise UserError(str(error)) from None

    def read(on_text: Callable[[int], object]) -> Iterator[str]:
        for sample in range(len(shards)):
            yield from _texts(shards, sample, field)
            on_text(sample + 1)

    train = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram}[kind]
    tokenizer = train(tokenizers, read, vocabulary, on_text)
    single, pair = PAIRS[kind]
    ends = [(name, tokenizer.token_to_id(name)) for name in SPECIAL[kind] if name in single]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    return tokenizer


def _bpe(library: Any, read: Callable[..., Iterator[str]], vocabulary: int, on_text: Callable[[int], object]) -> Any:
    pieces = library.pre_tokenizers.ByteLevel
    _check_room("bpe", vocabulary, 256)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pieces(add_prefix_space=False), library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL["bpe"], initial_alphabet=pieces.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(read(on_text), trainer)
    return tokenizer


def _wordpiece(
    library: Any, read: Callable[..., Iterator[str]], vocabulary: int, on_text: Callable[[int], object]
) -> Any:
    """The trainer numbers letters within words in the order of a hash table, and takes the lower number of two pairs
    that are equally common: they are given to it as special tokens, and taken from those afterwards."""
    normalizer, splitter = library.normalizers.BertNormalizer(lowercase=True), library.pre_tokenizers.BertPreTokenizer()
    first: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    for text in read(lambda samples: None):
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            first[word[0]] += 1
            inner.update(word[1:])
    letters = first + inner
    kept = sorted(letters, key=lambda letter: (-letters[letter], letter))[:LETTERS]
    within = [f"##{letter}" for letter in sorted(kept) if letter in inner]
    _check_room("wordpiece", vocabulary, len(kept) + len(within))

    def bare(model: Any) -> Any:
        made = library.Tokenizer(model)
        made.normalizer, made.pre_tokenizer = normalizer, splitter
        made.decoder = library.decoders.WordPiece()
        return made

    trained = bare(library.models.WordPiece(unk_token="[UNK]"))
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL["wordpiece"], *within],
        initial_alphabet=kept,
        limit_alphabet=LETTERS,
        show_progress=False,
    )
    trained.train_from_iterator(read(on_text), trainer)
    tokenizer = bare(library.models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL["wordpiece"])
    return tokenizer


def _unigram(
    library: Any, read: Callable[..., Iterator[str]], vocabulary: int, on_text: Callable[[int], object]
) -> Any:
    """The library's model with pieces that `headrace.tools.unigram` finds: its own trainer's are others each time."""
    from headrace.tools.unigram import train_unigram  # takes seconds to compile

    normalizer, splitter = library.normalizers.NFKC(), library.pre_tokenizers.Metaspace()
    words: Counter[str] = Counter()
    for text in read(on_text):
        words.update(word for word, _ in splitter.pre_tokenize_str(" ".join(normalizer.normalize_str(text).split())))
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    kept = sorted(letters, key=lambda letter: (-letters[letter], letter))[:LETTERS]
    _check_room("unigram", vocabulary, len(kept))
    special = len(SPECIAL["unigram"]) + SENTINELS
    pieces = train_unigram(words, kept, vocabulary - special)
    model = library.models.Unigram([*((name, 0.0) for name in SPECIAL["unigram"]), *pieces], unk_id=2)
    tokenizer = library.Tokenizer(model)
    collapse = library.normalizers.Replace(library.Regex(r"\s+"), " ")
    tokenizer.normalizer = library.normalizers.Sequence([normalizer, collapse, library.normalizers.Strip()])
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, library.decoders.Metaspace()
    tokenizer.add_special_tokens([*SPECIAL["unigram"], *(f"<extra_id_{n}>" for n in reversed(range(SENTINELS)))])
    return tokenizer


def _check_room(kind: Kind, vocabulary: int, letters: int) -> None:
    special = len(SPECIAL[kind]) + (SENTINELS if kind == "unigram" else 0)
    least = special + letters
    if vocabulary < least:
        raise UserError(
            f"a {kind} tokenizer of these texts has {least} tokens at least, {special} of them special; "
            f"asked for are {vocabulary}"
        )


def _texts(shards: ShardSet, sample: int, field: str) -> list[str]:
    """Those of one sample that are not blank."""
    try:
        return [text for _, text in texts_of(shards.read(sample, [field])[field])]
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{shards.where(sample, field)}: cannot decode the text: {error}") from error
