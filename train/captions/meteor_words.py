"""What METEOR knows of English: which words carry little meaning, which share a meaning, and how a line is cut."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.train.errors import RunError

USUAL_WORDNET = Path("/usr/share/wordnet")
"""Where the Debian package wordnet-base puts it."""
PARTS = ("noun", "verb", "adj", "adv")
_ENDINGS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""), ("er", ""),
    ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip
"""WordNet's rules of detachment (morphy(7WN)): those of nouns, verbs and adjectives, in turn."""


@dataclass(frozen=True, kw_only=True)
class MeteorWords:
    """Word lists; without them METEOR compares words and stems, and all words count alike."""

    function_words: frozenset[str] = frozenset()
    """Words that weigh a quarter against three quarters of the others."""
    synsets: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """WordNet's sets of synonyms that a base form is in."""
    bases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Base forms of irregular ones."""

    @property
    def name(self) -> str:
        """Of the metric that these words make, which is not the authors' as long as it has no paraphrases."""
        modules = ["exact", "stem", *(["synonym"] if self.synsets else [])]
        return f"METEOR ({', '.join(modules)}{'' if self.function_words else '; no function words'})"

    def senses(self, word: str) -> frozenset[int]:
        """Sets of synonyms of a word and of its base forms."""
        none: frozenset[int] = frozenset()
        found = self.synsets.get(word, none)
        for base in self.bases.get(word) or (self._base(word),):
            found |= self.synsets.get(base, none)
        return found

    def _base(self, word: str) -> str:
        if word.endswith("ss") or len(word) <= 2:
            return word
        for ending, instead in _ENDINGS:
            if word.endswith(ending) and (base := word[: -len(ending)] + instead) in self.synsets:
                return base + "ful" if word.endswith("ful") else base
        return ""


def meteor_words(*, jar: Path | None = None, wordnet: Path | None = None) -> MeteorWords:
    """The lists that can be had on this machine; nothing is fetched, and no Java runs.

    Args:
        jar: the authors' meteor-1.5.jar, which has all lists; None takes the one of the package pycocoevalcap, if that
            is installed.
        wordnet: folder with WordNet's files index.noun, noun.exc and so on, whose synonyms are taken instead of the
            jar's, which are WordNet 3.0's; None takes Debian's where there is no jar.

    Raises:
        RunError: if what is named is not there, or is something else.
    """
    words = MeteorWords()
    if (jar := jar or _installed_jar()) is not None:
        words = _of_jar(jar)
    if wordnet is None and not words.synsets and (USUAL_WORDNET / "index.noun").exists():
        wordnet = USUAL_WORDNET
    if wordnet is not None:
        synsets, bases = _of_wordnet(wordnet)
        words = MeteorWords(function_words=words.function_words, synsets=synsets, bases=bases)
    return words


def _installed_jar() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (jar := Path(folder) / "meteor" / "meteor-1.5.jar").exists():
            return jar
    return None


def _of_jar(jar: Path) -> MeteorWords:
    try:
        with zipfile.ZipFile(jar) as archive:
            function_words = archive.read("function/english.words").decode("utf-8").splitlines()
            synsets = archive.read("synonym/english.synsets").decode("utf-8").splitlines()
            exceptions = archive.read("synonym/english.exceptions").decode("utf-8").splitlines()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(f"{jar}: is not METEOR 1.5's jar ({error})") from None
    return MeteorWords(
        function_words=frozenset(function_words),
        synsets={word: frozenset(map(int, row.split())) for word, row in _pairs(synsets)},
        bases=_bases((form, base) for base, forms in _pairs(exceptions) for form in forms.split()),
    )


def _of_wordnet(folder: Path) -> tuple[dict[str, frozenset[int]], dict[str, tuple[str, ...]]]:
    """Source: wndb(5WN); cmu-mtlab/meteor at 57a9ec5, scripts/build_wordnet_files.py, which reads index.sense."""
    synsets: dict[str, frozenset[int]] = {}
    irregular: list[tuple[str, str]] = []
    try:
        for part in PARTS:
            for line in (folder / f"index.{part}").read_text(encoding="utf-8").splitlines():
                if not line.startswith(" "):  # the licence
                    word, _, count, *rest = line.split()
                    synsets[word] = synsets.get(word, frozenset()) | frozenset(map(int, rest[-int(count) :]))
            for line in (folder / f"{part}.exc").read_text(encoding="utf-8").splitlines():
                form, *of_form = line.split()
                irregular += [(form, base) for base in of_form]
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: is not a folder of WordNet's files ({error})") from None
    return synsets, _bases(irregular)


def _pairs(lines: list[str]) -> Iterator[tuple[str, str]]:
    return zip(lines[::2], lines[1::2], strict=True)


def _bases(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for form, base in pairs:
        found[form] = (*found.get(form, ()), base)
    return found


_LETTERS = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮꙿ-ꚗᴀ-ᵿ"
_SIGNS = "0-9" + _LETTERS
_STEPS = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (rf"([^{_SIGNS}\s.'`,\-‘’])", r" \1 "),
        (r"(?<!\d),|,(?!\d)", " , "),
        (r"[`‘’]", "'"),
        (r"[“”]|''", ' " '),
        (r"–|--", "-"),
        (rf"([{_SIGNS}.])-([{_SIGNS}])", r"\1 \2"),
        (rf"([^{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([^{_LETTERS}0-9])'([{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([{_LETTERS}])", r"\1 '\2"),
        (r"([0-9])'(s)", r"\1 '\2"),
    )
)
_ABBREVIATIONS = {"v", "vs", "i.e", "rev", "e.g"}


def meteor_line(line: str) -> list[str]:
    """The words that METEOR makes of a line in lower case, whose hyphens and apostrophes it cuts once more.

    Source: cmu-mtlab/meteor at 57a9ec5, src/edu/cmu/meteor/util/Normalizer.java, for English with punctuation, without
    rows of full stops, which `caption_words` leaves out.
    """
    line = f" {line} "
    for pattern, written in _STEPS:
        line = pattern.sub(written, line)
    words = line.split()
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        begin = word[:-1]
        if len(word) < 2 or not word.endswith("."):
            found.append(word)
        elif "." in begin and re.search(f"[{_LETTERS}]", begin):
            found.append(word.replace(".", ""))
        elif begin in _ABBREVIATIONS or re.match("[a-z]", after) or (begin == "pp" and re.match("[0-9]", after)):
            found.append(word)
        else:
            found += [begin, "."]
    return [word.lower() for word in found]
