"""The tokens of all documents of a set, computed once and kept: what packing needs to know before it begins.

Where documents are cut and joined, a block depends on the lengths of all documents before it, in tokens, and takes the
middle of a long one from a place that only its tokens tell. So a set is tokenised once for each tokenizer, in one pass,
and its tokens lie in a folder beside the cache of remote sets ($HEADRACE_CACHE, ~/.cache/headrace):

    tokens    u2 or u4, little endian: of all documents, one behind the other, without special ones
    words     a bit a token, 1 where a word begins; the lowest bit of a byte comes first
    offsets   u8 (documents + 1): where each document begins among the tokens
    bad.json  {"12": "shard_0.tar, offset 512, key a: ..."}: documents that cannot be read; they have no tokens

Two bytes a token are about half of a text's own size.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.texts.tokenizer import TextTokenizer, Tokens
from headrace.shards import ShardError, ShardSet, Spans
from headrace.shards.errors import MachineError, is_machine_fault
from headrace.shards.kept import ASIDE, trim
from headrace.shards.lock import FileLock
from headrace.shards.mapping import MappedFile
from headrace.shards.remote.remote_set import cache_folder

VERSION = 1
"""Of the files and of what is in them."""
CAPACITY = 64 << 30
"""Bytes that are kept, those of least recent use go first."""
TOGETHER = 256
"""Documents that are read and tokenised at a time."""
POLL_S = 0.1
TOKENS, WORDS, OFFSETS, BAD = "tokens", "words", "offsets", "bad.json"

Progress = Callable[[int], object]


class TokenStore:
    """The tokens of every document of one field of a set; see `token_store`.

    Nothing of it is memory of this process alone: the files are mapped.
    """

    def __init__(self, folder: Path, vocabulary: int, temporary: Any = None) -> None:
        self._temporary = temporary  # removed with this object
        self._files = {name: MappedFile(folder / name) for name in (TOKENS, WORDS, OFFSETS)}
        self.tokens: npt.NDArray[Any] = self._files[TOKENS].array.view(_type(vocabulary))
        """uint16 or uint32 (all tokens,), and one more."""
        self.words: npt.NDArray[np.uint8] = self._files[WORDS].array
        """Bits, see above."""
        self.offsets: npt.NDArray[np.int64] = self._files[OFFSETS].array.view("<i8")
        """int64 (documents + 1,)."""
        found = json.loads((folder / BAD).read_text(encoding="utf-8"))
        self.bad: dict[int, str] = {int(number): reason for number, reason in found.items()}
        """Why, by the number of each sample that has no tokens."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sizes(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tokens of some documents, int64, the shape of `documents`."""
        return self.offsets[documents + 1] - self.offsets[documents]


def token_store(
    shards: ShardSet, field: str, tokenizer: TextTokenizer, *, progress: Progress = lambda documents: None
) -> TokenStore:
    """The tokens of a set's documents: those that are kept, or computed now. Of processes that want the same at a time
    one computes it, and the others wait.

    A set without checksums of its own, as one of another program's tars, is computed anew each time.

    Args:
        field: a text field.
        progress: called with the number of documents done so far.

    Raises:
        MachineError: if the files cannot be written, or the set cannot be read for now.
    """
    name = _key(shards, field, tokenizer)
    root = _root()
    if name is None or root is None:
        temporary = tempfile.TemporaryDirectory(prefix="headrace-tokens-")
        _write(Path(temporary.name), shards, field, tokenizer, progress)
        return TokenStore(Path(temporary.name), tokenizer.vocabulary, temporary)
    folder, lock = root / name, FileLock(root / f"{name}.lock")
    while not (folder / BAD).exists():
        if not lock.take():
            time.sleep(POLL_S)
            continue
        try:
            if not (folder / BAD).exists():
                aside = folder.with_name(f"{name}.{os.getpid()}{ASIDE}")
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
                try:
                    _write(aside, shards, field, tokenizer, progress)
                    os.rename(aside, folder)
                except OSError as error:
                    if (folder / BAD).exists():  # where a file system has no locks
                        continue
                    raise MachineError(f"{aside}: cannot keep tokens ({error.strerror or error})") from error
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
                with suppress(OSError):
                    trim(root, CAPACITY, keep=name)
        finally:
            lock.release()
    with suppress(OSError):
        os.utime(folder)
    return TokenStore(folder, tokenizer.vocabulary)


def _root() -> Path | None:
    """Where stores are kept; None where nothing can be written there."""
    cache = cache_folder(None)
    root = cache.with_name(f"{cache.name}-tokens")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return root if os.access(root, os.W_OK | os.X_OK) else None


def _key(shards: ShardSet, field: str, tokenizer: TextTokenizer) -> str | None:
    """None where the bytes of the set are not known."""
    import tokenizers

    if not all(shard.checksum for shard in shards.manifest.shards):
        return None
    digest = hashlib.sha256(Path(tokenizer.path).read_bytes())
    for text in (VERSION, tokenizers.__version__, field, shards.manifest.to_json()):
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()[:32]


def _type(vocabulary: int) -> str:
    return "<u2" if vocabulary <= 1 << 16 else "<u4"


def _write(folder: Path, shards: ShardSet, field: str, tokenizer: TextTokenizer, progress: Progress) -> None:
    """All files of a store."""
    bad: dict[int, str] = {}
    count, left = 0, np.zeros(0, np.bool_)
    kind = _type(tokenizer.vocabulary)
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / name, "wb")) for name in (TOKENS, WORDS, OFFSETS)}
        files[OFFSETS].write(np.zeros(1, "<i8").tobytes())
        for number, (tokens, words) in enumerate(_documents(shards, field, tokenizer, bad)):
            files[TOKENS].write(tokens.astype(kind).tobytes())
            begins = np.ones(len(words), np.bool_)
            begins[1:] = words[1:] != words[:-1]
            bits = np.concatenate([left, begins])
            whole = len(bits) // 8 * 8
            files[WORDS].write(np.packbits(bits[:whole], bitorder="little").tobytes())
            left = bits[whole:]
            count += len(tokens)
            files[OFFSETS].write(np.array([count], "<i8").tobytes())
            progress(number + 1)
        files[TOKENS].write(np.zeros(1, kind).tobytes())  # no file is empty
        files[WORDS].write(np.packbits(np.append(left, False), bitorder="little").tobytes())
    (folder / BAD).write_text(json.dumps(bad), encoding="utf-8")


def _documents(shards: ShardSet, field: str, tokenizer: TextTokenizer, bad: dict[int, str]) -> Iterator[Tokens]:
    """Tokens and words of every document; none of those that are added to `bad`."""
    for first in range(0, len(shards), TOGETHER):
        ids = np.arange(first, min(first + TOGETHER, len(shards)))
        spans, arrived = shards.request(field, ids)
        arrived()
        texts: list[str] = []
        for place, sample in enumerate(ids.tolist()):
            try:
                own = slice(place, place + 1)
                shards.refuse_unreadable(field, ids[own], Spans._make(part[own] for part in spans))
                texts.append(_text(shards, field, int(spans.address[place]), int(spans.size[place])))
            except (ShardError, ValueError) as error:
                if is_machine_fault(error):
                    raise
                where = "" if isinstance(error, ShardError) else f"{shards.where(sample, field)}: "
                bad[sample] = f"{where}{error}"
                texts.append("")
        for sample, found in zip(ids.tolist(), tokenizer.encode(texts, words=True), strict=True):
            if not len(found[0]) and sample not in bad:
                bad[sample] = f"{shards.where(sample, field)}: the tokenizer finds no token in the text"
            yield found


def _text(shards: ShardSet, field: str, address: int, size: int) -> str:
    text = shards.decode(field, np.frombuffer(memory_at(address, size), np.uint8)) if size else ""
    if not isinstance(text, str):
        raise ValueError(f"expected a text, found {type(text).__name__}")
    if not text.strip():
        raise ValueError("the text is empty")
    return text
