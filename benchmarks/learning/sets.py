"""What methods learn from: a shard set for training and one for testing of each, and what stands for no encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from headrace.benchmarks.emoji import emoji
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.glosses import glosses
from headrace.benchmarks.motions import COUNTS, write_motions
from headrace.benchmarks.moving_digits import Split, write_moving_digits
from headrace.benchmarks.parallax import COUNTS as SCENES
from headrace.benchmarks.parallax import write_parallax
from headrace.benchmarks.prompts import LANGUAGES, prompts
from headrace.benchmarks.stamps import stamps
from headrace.models import Method
from headrace.models.methods.video.monodepth2 import Monodepth2
from headrace.pipeline import Clip, ClipSpec, Mel, Sound, SoundSpec, TextSpec, ViewSpec
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.shards.manifest import MANIFEST_NAME
from headrace.tools.errors import UserError
from headrace.tools.sources.mnist import TRAIN_EACH, digits
from headrace.tools.tokenizer import train_tokenizer
from headrace.train.probes import Features, band_features, pixel_features, word_features
from headrace.train.recipes.small import EPOCHS

SIDE = 32
"""Of emoji and stamps, in pixels; digits have 28."""
SMOKE_EACH: dict[Split, int] = {"train": 12, "test": 4}
"""Digits of a class."""
TEST_STYLE = "fluent"
"""Of emoji; they are learnt in the other styles."""
TEST_SHARE = 4
"""One of so many captions of stamps, and of so many prompts, is for testing."""
GLOSSES_EACH: dict[Split, int] = {"train": 1600, "test": 200}
"""Of a category."""
GLOSS_TOKENS = 32
VOCABULARY = 4096
"""Tokens of a set's tokenizer."""
TOKENIZER = "tokenizer.json"
"""Beside the shard sets of a set with texts."""

Samples = Iterator[dict[str, Any]]
"""Without their keys."""


@dataclass(frozen=True, kw_only=True)
class LearningSet:
    """A set to learn from."""

    title: str
    about: str
    """What is in it, and how test samples differ, in a line."""
    suits: Callable[[Method], bool]
    """Whether a method can be trained on it."""
    write: Callable[[Path, bool], None]
    """Writes the shard sets `train` and `test` in a folder, small ones for a smoke run; SourceMissing where the data
    cannot be had."""
    input_title: str
    """What is probed in the place of an encoder's features."""
    input_features: Callable[[ShardSet], Features]
    epochs: int
    """Of a training: on every set about as many samples are seen."""


def content(folder: Path) -> str:
    """A digest of the samples of a set that was written."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST_NAME:  # it says when it was written
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _takes(*kinds: type) -> Callable[[Method], bool]:
    """Whether a method's inputs are one of these kinds, or streams of all of them."""

    def suits(method: Method) -> bool:
        inputs = method.inputs
        streams = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
        return {type(stream) for stream in streams} == set(kinds)

    return suits


def _needs_colours(method: Method) -> bool:
    """Whether a method looks at colours by themselves, apart from how light they are."""
    return isinstance(method.inputs, ViewSpec) and any(v.normalize.space == "lab" for v in method.inputs.views)


def _takes_clips(method: Method) -> bool:
    """Clips of any kind."""
    return _takes(ClipSpec)(method) and not _needs_cameras(method)


def _needs_cameras(method: Method) -> bool:
    """Whether a method must know the camera of its clips."""
    return isinstance(method, Monodepth2)


IMAGE = Field(kind="image", encoding="raw")


def _write(folder: Path, split: str, classes: Sequence[str], fields: Mapping[str, Field], samples: Samples) -> None:
    """Samples with a label, and with what `fields` names."""
    numbered = ({"__key__": f"{number:05d}", **sample} for number, sample in enumerate(samples))
    label = Field(kind="int", classes=tuple(classes))
    write_shards(folder / split, numbered, {**fields, "label": label}, format="ffcv")


def _write_tokenizer(folder: Path) -> None:
    """Of the texts for training."""
    try:
        with open_shards(folder / "train") as shards:
            tokenizer = train_tokenizer(shards, "wordpiece", VOCABULARY)
    except ImportError as error:
        raise SourceMissing(str(error)) from None
    tokenizer.save(str(folder / TOKENIZER))


def _write_digits(folder: Path, smoke: bool) -> None:
    """As the demo splits them."""
    try:
        pixels, labels = digits()
    except UserError as error:
        raise SourceMissing(str(error)) from None
    for split, each in SMOKE_EACH.items():
        rows: list[int] = []
        for label in range(10):
            of_class = np.flatnonzero(labels == label)
            of_split = of_class[:TRAIN_EACH] if split == "train" else of_class[TRAIN_EACH:]
            rows += of_split[: each if smoke else None].tolist()
        samples = ({"image": np.repeat(pixels[i, :, :, None], 3, axis=2), "label": int(labels[i])} for i in rows)
        _write(folder, split, "0123456789", {"image": IMAGE}, samples)


def _write_emoji(folder: Path, smoke: bool) -> None:
    """Every concept in two styles for training, and in the third for testing; its name is the text."""
    found = emoji()[:: 40 if smoke else 1]
    classes = sorted({each.category for each in found})
    for split, testing in (("train", False), ("test", True)):
        samples = (
            {
                "image": on_white(path),
                "text": each.name.replace("_", " ").replace("-", " "),
                "label": classes.index(each.category),
            }
            for each in found
            for style, path in each.pictures.items()
            if (style == TEST_STYLE) == testing
        )
        _write(folder, split, classes, {"image": IMAGE, "text": Field(kind="text")}, samples)
    _write_tokenizer(folder)


def _write_stamps(folder: Path, smoke: bool) -> None:
    """Pictures with one caption are of one split, as many are copies of each other."""
    found = stamps()[:: 8 if smoke else 1]
    classes = sorted({each.category for each in found})
    captions = sorted({each.caption for each in found})
    of_test = set(captions[TEST_SHARE - 1 :: TEST_SHARE])
    for split, testing in (("train", False), ("test", True)):
        samples = (
            {"image": on_white(each.path), "label": classes.index(each.category)}
            for each in found
            if (each.caption in of_test) == testing
        )
        _write(folder, split, classes, {"image": IMAGE}, samples)


def on_white(path: Path) -> npt.NDArray[np.uint8]:
    """The picture in the middle of a white square, uint8 (SIDE, SIDE, 3)."""
    with Image.open(path) as opened:
        picture = ImageOps.contain(opened.convert("RGBA"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return np.asarray(square.convert("RGB"))


def _write_glosses(folder: Path, smoke: bool) -> None:
    """Those of every category in an order of chance: as many as are wanted for training, and the next ones for
    testing."""
    found = sorted(glosses(), key=lambda each: hashlib.sha256(each.key.encode()).digest())
    classes = sorted({each.category for each in found})
    by_class = {name: [each for each in found if each.category == name] for name in classes}
    learnt = GLOSSES_EACH["train"]
    for split, each in GLOSSES_EACH.items():
        first, count = (learnt, each) if split == "test" else (0, each)
        count = SMOKE_EACH[split] if smoke else count
        samples = (
            {"text": gloss.text, "label": classes.index(name)}
            for name in classes
            for gloss in by_class[name][first : first + count]
        )
        _write(folder, split, classes, {"text": Field(kind="text")}, samples)
    _write_tokenizer(folder)


def _write_prompts(folder: Path, smoke: bool) -> None:
    """What is said in the test prompts is said in none for training, in whatever language."""
    found = prompts()
    names = sorted({each.name for each in found})[:: 20 if smoke else 1]
    of_test = set(names[TEST_SHARE - 1 :: TEST_SHARE])
    languages = list(LANGUAGES)
    for split, wanted in (("train", set(names) - of_test), ("test", of_test)):
        samples = (
            {"audio": each.path.read_bytes(), "label": languages.index(each.language)}
            for each in found
            if each.name in wanted
        )
        _write(folder, split, list(LANGUAGES.values()), {"audio": Field(kind="audio", encoding="wav")}, samples)


def _write_moving_digits(folder: Path, smoke: bool) -> None:
    write_moving_digits(folder, SMOKE_EACH if smoke else None)


def _write_motions(folder: Path, smoke: bool) -> None:
    write_motions(folder, {split: 8 * each for split, each in SMOKE_EACH.items()} if smoke else COUNTS)


def _write_parallax(folder: Path, smoke: bool) -> None:
    write_parallax(folder, {split: 4 * each for split, each in SMOKE_EACH.items()} if smoke else SCENES)


def _words(shards: ShardSet) -> Features:
    tokenizer = Path(str(shards.path)).parent / TOKENIZER
    return word_features(shards, TextSpec(tokenizer=tokenizer, length=GLOSS_TOKENS))


def _bands(shards: ShardSet) -> Features:
    mel = Mel(bins=64, window=200, hop=80, fft=512, low=50.0)
    second = Sound(samples=mel.samples(96), rate=8000, place="center", short="loop", mel=mel)
    return band_features(shards, SoundSpec([second]))


def _frames(shards: ShardSet) -> Features:
    return pixel_features(shards, 16, clips=ClipSpec([Clip(frames=8, strides=(1,))]))


def _scenes(shards: ShardSet) -> Features:
    return pixel_features(shards, 16, clips=ClipSpec([Clip(frames=3, strides=(1,))]))


SETS: dict[str, LearningSet] = {
    "digits": LearningSet(
        title="Digits",
        about="4,000 digits of MNIST, tested on 1,000 others",
        suits=lambda method: _takes(ViewSpec)(method) and not _needs_colours(method),
        write=_write_digits,
        input_title="raw pixels",
        input_features=partial(pixel_features, size=28),
        epochs=EPOCHS,
    ),
    "emoji": LearningSet(
        title="Emoji",
        about="1,599 emoji of 8 categories with their names in the styles Noto and Twemoji, tested on the same ones in "
        "the style Fluent",
        suits=lambda method: _takes(ViewSpec)(method) or _takes(ViewSpec, TextSpec)(method),
        write=_write_emoji,
        input_title="raw pixels",
        input_features=partial(pixel_features, size=SIDE),
        epochs=EPOCHS * 5 // 4,
    ),
    "stamps": LearningSet(
        title="Stamps",
        about="Stamps of 16 categories, three quarters of their captions for training, tested on the others",
        suits=_takes(ViewSpec),
        write=_write_stamps,
        input_title="raw pixels",
        input_features=partial(pixel_features, size=SIDE),
        epochs=EPOCHS * 7,
    ),
    "glosses": LearningSet(
        title="Glosses",
        about="16,000 glosses of WordNet's nouns in 10 categories, tested on 2,000 others",
        suits=_takes(TextSpec),
        write=_write_glosses,
        input_title="counts of words",
        input_features=_words,
        epochs=EPOCHS // 4,
    ),
    "moving_digits": LearningSet(
        title="Moving digits",
        about="4,000 clips of digits that drift before photographs, tested on 1,000 of other digits and photographs",
        suits=_takes_clips,
        write=_write_moving_digits,
        input_title="raw frames",
        input_features=_frames,
        epochs=EPOCHS,
    ),
    "motions": LearningSet(
        title="Motions",
        about="2,400 clips of pictures before a camera that moves in one of 8 ways, tested on 800 of other pictures",
        suits=_takes_clips,
        write=_write_motions,
        input_title="raw frames",
        input_features=_frames,
        epochs=EPOCHS * 5 // 3,
    ),
    "parallax": LearningSet(
        title="Parallax",
        about="1,200 clips of scenes of photographs before a camera that goes in one of 4 ways, tested on 300 of other "
        "photographs",
        suits=_needs_cameras,
        write=_write_parallax,
        input_title="raw frames",
        input_features=_scenes,
        epochs=EPOCHS,
    ),
    "prompts": LearningSet(
        title="Prompts",
        about="Words and sentences spoken in 5 languages, three quarters of them for training, tested on the others",
        suits=_takes(SoundSpec),
        write=_write_prompts,
        input_title="mean and deviation by band",
        input_features=_bands,
        epochs=EPOCHS * 2,
    ),
}
"""By the name that `--data` takes. A method is trained on the first one that suits it where nothing else is asked for:
what comes with a package that is installed stands before what is fetched."""
