"""Data sets of sounds, by what lies there: LibriSpeech, Speech Commands, or a folder of files and classes.

LibriSpeech (https://www.openslr.org/12), one subset or several:

    LibriSpeech/SPEAKERS.TXT                               "14 | F | train-clean-360 | 25.03 | Kristin LeMoine" a line
    LibriSpeech/dev-clean/84/121123/84-121123-0000.flac    speaker, chapter, and both with a number
    LibriSpeech/dev-clean/84/121123/84-121123.trans.txt    "84-121123-0000 GO DO YOU HEAR" a line

Speech Commands (arXiv 1804.03209), version 0.01 or 0.02:

    backward/0165e0e8_nohash_0.wav                         the word, the speaker, and how often it was said before
    _background_noise_/running_tap.wav                     no class
    validation_list.txt, testing_list.txt                  "backward/0165e0e8_nohash_0.wav" a line; the rest trains

Both are read as they were downloaded, from a .tar.gz or several, from tars and zips, or unpacked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headrace.shards import Field
from headrace.tools.errors import UserError
from headrace.tools.sources.fingerprint import Fingerprint
from headrace.tools.sources.folder import MAX_MEDIA, media_folder, unique_keys
from headrace.tools.sources.listing import findable, is_folder
from headrace.tools.sources.source import BadSample, SourceData
from headrace.tools.sources.trees import Tree

MAX_LIST = 1 << 24
"""Bytes of a list."""


class Recording(NamedTuple):
    """A sound that a data set has, or that its lists name."""

    key: str
    file: str
    """Its place in the tree; empty where it is missing."""
    place: str
    """Where a list names it, for a person; empty where none does."""
    label: int
    text: str | None
    """What is said; None where the data set does not tell."""


class Listing(NamedTuple):
    """The sounds of a split."""

    sounds: list[Recording]
    classes: tuple[str, ...]
    meta: Callable[[Recording], dict[str, Any]]
    """What the data set says about one."""
    transcribed: bool
    """Whether there are texts; a sound that has none is a bad sample."""


def read(src: Path, split: str | None) -> SourceData:
    """Sound files as they are: WAV, FLAC, OGG, Opus, MP3.

    Fields:
        audio: The file.
        meta: seconds, rate, channels and codec; of LibriSpeech speaker, chapter, utterance and sex, of Speech Commands
            speaker and utterance.
        label: The class, whose names the manifest has: of LibriSpeech the speaker, of Speech Commands the word.
        text: Of LibriSpeech what is said; of a folder the .txt beside the file.
        What else the source `folder` finds beside a file of a folder.

    A sound that does not decode to its end is a bad sample, and so is one that a list names and that is not there, or
    one of LibriSpeech without a transcript.

    Args:
        src: A folder, or one archive.
        split: Of LibriSpeech a subset, such as dev-clean, or all of train, dev or test; of Speech Commands train, val
            or test; of a folder as the source `folder`.
    """
    tree = Tree(src, gzipped=True)
    found = layouts_in(tree)
    if not found and tree.look_into_packed(lambda name: is_wanted(name, split or "train")):
        found = layouts_in(tree)
    if len(found) > 1:
        raise UserError(f"{findable(src)}: holds {' and '.join(layout.name for layout, _ in found)}; name one's folder")
    if found:
        ((layout, lists),) = found
        return listed_sounds(tree, layout.read(tree, lists, split or "train"))
    if not is_folder(src):
        raise UserError(f"{findable(src)}: holds neither of {' and '.join(layout.name for layout in LAYOUTS)}")
    return media_folder(src, split, tree.packed, "audio", sound_check())


def layouts_in(tree: Tree) -> list[tuple[Layout, list[str]]]:
    """The data sets that are there, with their lists."""
    return [(layout, lists) for layout in LAYOUTS if (lists := layout.find(tree))]


def sound_check() -> Callable[[bytes], Any]:
    """`headrace.tools.media.sounds.probe_sound`; UserError where a package is missing."""
    try:
        from headrace.tools.media.sounds import probe_sound
    except ImportError as error:
        raise UserError(f"sounds need soundfile and PyAV: pip install 'headrace[sound]' ({error})") from error
    return probe_sound


def listed_sounds(tree: Tree, listing: Listing) -> SourceData:
    """The samples of a list, whose files may be missing."""
    sounds, classes = listing.sounds, listing.classes
    probe = sound_check()
    if not any(sound.file for sound in sounds):
        raise UserError(f"{findable(tree.src)}: holds none of the {len(sounds):,} sounds that are listed")
    keys = unique_keys([f"{sound.key}.wav" for sound in sounds])
    fields = {"audio": Field(kind="audio", encoding="mixed"), "meta": Field(kind="json")}
    fields["label"] = Field(kind="int", classes=classes)
    if listing.transcribed:
        fields["text"] = Field(kind="text")
    fingerprint = Fingerprint(fields)
    tree.note(fingerprint, [sound.file for sound in sounds])

    def load(i: int) -> dict[str, Any]:
        sound = sounds[i]
        if not sound.file:
            raise BadSample(f"there is no file {sound.key.rpartition('/')[2]}.*")
        if listing.transcribed and not sound.text:
            raise BadSample("has no transcript")
        content = tree.read(sound.file, MAX_MEDIA["audio"])
        try:
            info = probe(content)
        except ValueError as error:
            raise BadSample(str(error)) from error
        sample: dict[str, Any] = {"audio": content, "meta": {**listing.meta(sound), **info.meta()}}
        sample["label"] = sound.label
        return {**sample, "text": sound.text} if listing.transcribed else sample

    return SourceData(
        fields=fields,
        total=len(sounds),
        key=keys.__getitem__,
        origin=lambda i: tree.origin(sounds[i].file) if sounds[i].file else sounds[i].place,
        fingerprint=str(fingerprint),
        left_out=tree.left_out.counts(),
        strays=list(tree.left_out.strays(tree.src)),
        load=load,
    )


def lines(tree: Tree, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a list that are not blank, numbered from 1."""
    for number, line in enumerate(tree.read_list(name, MAX_LIST).splitlines(), 1):
        if line.strip():
            yield number, line.strip()


TRANSCRIPT = re.compile(r"(?:.*/)?([a-z]+-[a-z]+(?:-\d+)?)/(\d+)/(\d+)/\2-\3\.trans\.txt")
"""Subset, speaker, chapter."""
UTTERANCE = re.compile(r"(?:.*/)?([a-z]+-[a-z]+(?:-\d+)?)/(\d+)/(\d+)/(\2-\3-\d+)\.(?:flac|wav|mp3|ogg|opus)")
LINE = re.compile(r"(\d+-\d+-\d+)\s+(\S.*)")
SUBSET_ARCHIVE = re.compile(r"((?:train|dev|test)-[a-z]+(?:-\d+)?)\.(?:tar\.gz|tgz)")
WHOLE = {"val": "dev", "valid": "dev", "validation": "dev"}


def is_wanted(archive: str, split: str) -> bool:
    """Whether a .tar.gz has to be gone through: not those of LibriSpeech's other subsets, which have up to 30 GB."""
    found = SUBSET_ARCHIVE.fullmatch(archive)
    return found is None or of_split(found[1], split)


def of_split(subset: str, split: str) -> bool:
    """Whether a subset of LibriSpeech is, or is a part of, a split."""
    return subset == split or subset.partition("-")[0] == WHOLE.get(split, split)


def find_librispeech(tree: Tree) -> list[str]:
    """The transcripts of LibriSpeech."""
    return [name for name in tree.names if TRANSCRIPT.fullmatch(name)]


def read_librispeech(tree: Tree, lists: list[str], split: str) -> Listing:
    """The utterances of a subset or of several, by speaker and chapter."""
    files: dict[tuple[str, str], str] = {}
    for name in tree.names:
        if (found := UTTERANCE.fullmatch(name)) and of_split(found[1], split):
            if (key := (found[1], found[4])) in files:
                raise UserError(
                    f"{findable(tree.src)}: {tree.origin(files[key])} and {tree.origin(name)} are the same utterance; "
                    "name the folder of one"
                )
            files[key] = name
    said: dict[tuple[str, str], tuple[str, str]] = {}
    for name in lists:
        match = TRANSCRIPT.fullmatch(name)
        assert match is not None
        if not of_split(match[1], split):
            continue
        for number, line in lines(tree, name):
            parts = LINE.fullmatch(line)
            where = f"{tree.origin(name)}, line {number}"
            if not parts or not parts[1].startswith(f"{match[2]}-{match[3]}-"):
                raise UserError(f"{where}: expected {match[2]}-{match[3]}-0000 and what is said, found {line[:60]!r}")
            if (match[1], parts[1]) in said:
                raise UserError(f"{where}: {parts[1]} stands there twice")
            said[match[1], parts[1]] = parts[2], where
    if not said and not files:
        subsets = sorted({found[1] for name in lists if (found := TRANSCRIPT.fullmatch(name))})
        raise UserError(f"{findable(tree.src)}: LibriSpeech has the subsets {', '.join(subsets)} here, not {split!r}")
    utterances = sorted({*files, *said}, key=lambda each: (each[0], *map(int, each[1].split("-"))))
    speakers = sorted({each.partition("-")[0] for _, each in utterances}, key=int)
    numbers = {speaker: number for number, speaker in enumerate(speakers)}
    sexes = sexes_of(tree)
    sounds = []
    for subset, name in utterances:
        speaker, chapter, _ = name.split("-")
        text, place = said.get((subset, name), (None, ""))
        file = files.get((subset, name), "")
        sounds.append(Recording(f"{subset}/{speaker}/{chapter}/{name}", file, place, numbers[speaker], text))

    def meta(sound: Recording) -> dict[str, Any]:
        speaker, chapter, utterance = sound.key.rpartition("/")[2].split("-")
        of_speaker = {"sex": sexes[speaker]} if speaker in sexes else {}
        return {"speaker": int(speaker), "chapter": int(chapter), "utterance": int(utterance), **of_speaker}

    return Listing(sounds, tuple(speakers), meta, transcribed=True)


def sexes_of(tree: Tree) -> Mapping[str, str]:
    """F or M of each speaker, where SPEAKERS.TXT is there."""
    found = {}
    for name in tree.names:
        if name.rpartition("/")[2] == "SPEAKERS.TXT":
            rows = (line.split("|") for _, line in lines(tree, name) if not line.startswith(";"))
            found.update({row[0].strip(): row[1].strip() for row in rows if len(row) > 2})
    return {speaker: sex for speaker, sex in found.items() if sex in ("F", "M")}


OF_COMMANDS = {"val": "validation_list.txt", "validation": "validation_list.txt", "test": "testing_list.txt"}
SPOKEN = re.compile(r"([0-9a-f]+)_nohash_(\d+)")


def find_commands(tree: Tree) -> list[str]:
    """The two lists of Speech Commands, where they lie beside folders with sounds."""
    names = set(tree.names)
    folders = [name.removesuffix("testing_list.txt") for name in names if name.endswith("testing_list.txt")]
    complete = sorted(folder for folder in folders if f"{folder}validation_list.txt" in names)
    return [f"{folder}{name}" for folder in complete for name in ("testing_list.txt", "validation_list.txt")]


def read_commands(tree: Tree, lists: list[str], split: str) -> Listing:
    """The words of a split: of training are those that no list has."""
    if len(lists) > 2:
        raise UserError(f"{findable(tree.src)}: {tree.origin(lists[0])} and {tree.origin(lists[2])} are of two copies")
    if split not in (*OF_COMMANDS, "train"):
        raise UserError(f"{findable(tree.src)}: Speech Commands has the splits train, val and test, not {split!r}")
    root = lists[0].removesuffix("testing_list.txt")
    listed = {name: dict(listed_words(tree, name)) for name in lists}
    there: dict[str, str] = {}
    for name in tree.names:
        word, _, rest = name.removeprefix(root).partition("/")
        if not name.startswith(root) or not rest.lower().endswith(".wav"):
            continue
        if word.startswith("_"):
            tree.left_out.add(f"sounds of {word}, which is no class", tree.origin(name))
        elif "/" not in rest:
            there[f"{word}/{rest}"] = name
    both = {name: where for each in listed.values() for name, where in each.items()}
    classes = tuple(sorted({name.partition("/")[0] for name in (*there, *both)}))
    numbers = {word: number for number, word in enumerate(classes)}
    wanted = listed[f"{root}{OF_COMMANDS[split]}"] if split != "train" else dict.fromkeys(set(there) - set(both), "")
    sounds = [
        Recording(os.path.splitext(name)[0], there.get(name, ""), wanted[name], numbers[name.partition("/")[0]], None)
        for name in sorted(wanted)
    ]
    if not sounds:
        raise UserError(f"{findable(tree.src)}: Speech Commands has no sounds of {split} here")

    def meta(sound: Recording) -> dict[str, Any]:
        match = SPOKEN.fullmatch(sound.key.rpartition("/")[2])
        return {"speaker": match[1], "utterance": int(match[2])} if match else {}

    return Listing(sounds, classes, meta, transcribed=False)


def listed_words(tree: Tree, name: str) -> Iterator[tuple[str, str]]:
    """(word/file, where it is named) of a list."""
    for number, line in lines(tree, name):
        where = f"{tree.origin(name)}, line {number}"
        if not re.fullmatch(r"[^/_.][^/]*/[^/]+\.wav", line):
            raise UserError(f"{where}: expected word/file.wav, found {line[:60]!r}")
        yield line, where


class Layout(NamedTuple):
    """How a data set is recognised and read."""

    name: str
    find: Callable[[Tree], list[str]]
    """Its lists, empty where it is not there."""
    read: Callable[[Tree, list[str], str], Listing]
    """The sounds of a split; UserError where there is no such split or a list is damaged."""


LAYOUTS = (
    Layout("LibriSpeech", find_librispeech, read_librispeech),
    Layout("Speech Commands", find_commands, read_commands),
)
