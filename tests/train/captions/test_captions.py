"""Metrics of captions beside coco-caption's own classes, and what its Python and METEOR's jar said of small sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.train import RunError
from headrace.train.captions import MeteorWords, meteor_words, score_captions
from headrace.train.captions.meteor_words import meteor_line
from headrace.train.probes.intervals import bootstrap
from tests.conftest import require_peer

METEOR = "METEOR (exact, stem, synonym)"
PLAIN = MeteorWords()
REFERENCES = [
    ["a red apple on a table", "an apple", "the apple is red"],
    ["a brown dog runs on the grass", "a dog running"],
    ["two yellow bananas", "some bananas in a bowl"],
    ["a blue car", "a small blue car on the road"],
]
HYPOTHESES = ["a red apple", "a brown dog runs on grass", "a bowl", "a blue blue car"]

pytestmark = pytest.mark.peer("snowballstemmer")


@pytest.fixture(scope="module")
def jars_words() -> MeteorWords:
    require_peer("pycocoevalcap")
    return meteor_words()


def test_a_small_set_has_the_scores_that_the_authors_programs_give_it(jars_words: MeteorWords) -> None:
    found = score_captions(REFERENCES, HYPOTHESES, words=jars_words)
    assert found.corpus == pytest.approx(
        {
            "BLEU-1": 0.933333, "BLEU-2": 0.873863, "BLEU-3": 0.758489, "BLEU-4": 0.683447, "ROUGE-L": 0.737389,
            "CIDEr-D": 2.569227, METEOR: 0.377820,
        },
        abs=1e-6,
    )  # fmt: skip
    assert found.each["ROUGE-L"] == pytest.approx([0.628866, 0.910448, 0.530435, 0.879808], abs=1e-6)
    assert found.each["CIDEr-D"] == pytest.approx([2.506207, 4.115308, 1.103121, 2.552273], abs=1e-6)
    assert found.each[METEOR] == pytest.approx([0.322532, 0.488685, 0.231597, 0.419751], abs=1e-6)


def random_corpus(seed: int, images: int = 40) -> tuple[list[list[str]], list[str]]:
    """Sentences of 1 to 9 of 12 words, one hypothesis of none, 1 to 5 references an image."""
    random = np.random.default_rng(seed)

    def sentence() -> str:
        return " ".join(random.choice(list("abcdefghijkl"), size=random.integers(1, 10)))

    references = [[sentence() for _ in range(random.integers(1, 6))] for _ in range(images)]
    return references, [*(sentence() for _ in range(images - 1)), ""]


@pytest.mark.peer("pycocoevalcap")
@pytest.mark.parametrize("seed", range(3))
def test_bleu_rouge_and_cider_are_coco_captions(seed: int) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references, hypotheses = random_corpus(seed)
    found = score_captions(references, hypotheses, words=PLAIN, tokenized=True)
    theirs = dict(enumerate(references)), {number: [hypothesis] for number, hypothesis in enumerate(hypotheses)}
    corpus, each = Bleu(4).compute_score(*theirs, verbose=0)
    for order in range(4):
        assert found.corpus[f"BLEU-{order + 1}"] == pytest.approx(corpus[order], abs=1e-9)
        np.testing.assert_allclose(found.each[f"BLEU-{order + 1}"], each[order], atol=1e-9)
    for name, judge in (("ROUGE-L", Rouge()), ("CIDEr-D", Cider())):
        corpus, each = judge.compute_score(*theirs)
        assert found.corpus[name] == pytest.approx(corpus, abs=1e-9)
        np.testing.assert_allclose(found.each[name], each, atol=1e-9)


ALIGNED = [
    ("a dog", "a dog", 1.0),
    ("the automobile is quick", "the car is fast", 0.85),
    ("on the table a red apple", "a red apple on the table", 0.518355),
    ("cats running fast", "cat running fast", 0.866667),
    ("dogs running", "a dog runs", 0.0),
    ("a automobile", "a car", 0.85),
    ("dogs", "dog", 0.0),
    ("dog", "cat", 0.0),
    ("a red-and-white t-shirt", "a white and red shirt", 0.3247232472324723),
    ("it is n't a dog 's toy", "it is not the dog 's toy", 0.35625777521914886),
    ("a cat on a mat by a door on a porch", "on a porch a cat by a door on a mat", 0.5098999897250787),
    ("the geese were flying over mice", "a goose flies over a mouse", 0.27458007904127063),
    ("u.s. flag on main st. today", "the u.s. flag at st.", 0.1861050631255814),
    ("a a a b b a", "a b a b a a", 0.4467352531109634),
    ("the the the cat", "the cat the", 0.3818250026589431),
    ("", "a dog", 0.0),
    ("a dog", "", 0.0),
]
"""Reference, hypothesis, and what meteor-1.5.jar gives with -norm -m "exact stem synonym" -w "1.0 0.6 0.8"."""


def test_meteor_is_the_jars(jars_words: MeteorWords) -> None:
    """Of each caption, and of all together, which is not the mean."""
    references, hypotheses, scores = zip(*ALIGNED, strict=True)
    found = score_captions([[reference] for reference in references], hypotheses, words=jars_words, tokenized=True)
    np.testing.assert_allclose(found.each[METEOR], scores, atol=1e-6)
    assert found.corpus[METEOR] == pytest.approx(0.3533117130022284, abs=1e-9)
    assert abs(found.corpus[METEOR] - found.each[METEOR].mean()) > 0.01


@pytest.mark.parametrize("references", [["a b c", "a b c d e"], ["a b c d e", "a b c"]])
def test_of_two_lengths_as_near_bleu_takes_the_shorter(references: list[str]) -> None:
    found = score_captions([references], ["a b c d"], words=PLAIN)
    assert found.corpus["BLEU-1"] == pytest.approx(1.0, abs=1e-6)


def test_the_order_of_images_does_not_matter() -> None:
    references, hypotheses = random_corpus(3)
    found = score_captions(references, hypotheses, words=PLAIN).corpus
    order = np.random.default_rng(0).permutation(len(hypotheses))
    mixed = score_captions([references[i] for i in order], [hypotheses[i] for i in order], words=PLAIN).corpus
    assert mixed == pytest.approx(found, abs=1e-12)


def test_no_caption_beats_a_reference_by_cider() -> None:
    """Of images with one reference of four words and more each, which itself has 10."""
    references, hypotheses = random_corpus(4)
    references = [[of_image[0] + " w x y z"] for of_image in references]
    itself = score_captions(references, [of_image[0] for of_image in references], words=PLAIN)
    assert itself.each["CIDEr-D"] == pytest.approx(np.full(len(references), 10.0))
    other = score_captions(references, hypotheses, words=PLAIN)
    assert (other.each["CIDEr-D"] < 10).all()
    short = score_captions([["a b"], ["c d"]], ["a b", "c d"], words=PLAIN)
    assert short.corpus["CIDEr-D"] == pytest.approx(5.0)
    assert score_captions([["a b c d"]], ["a b c d"], words=PLAIN).corpus["CIDEr-D"] == 0


def test_captions_are_cut_into_words_first() -> None:
    references, hypotheses = [["A dog's toy."], ["Two cats!"]], ["a dog 's toy", "two cats"]
    assert score_captions(references, hypotheses, words=PLAIN).corpus["BLEU-1"] == pytest.approx(1, abs=1e-6)
    assert score_captions(references, hypotheses, words=PLAIN, tokenized=True).corpus["BLEU-1"] < 0.5


def test_images_that_count_twice_score_as_if_they_were_there_twice() -> None:
    """But CIDEr-D, whose rarity of words is that of the set."""
    references, hypotheses = random_corpus(5, images=12)
    counts = np.random.default_rng(0).integers(0, 3, 12)
    twice = np.repeat(np.arange(12), counts)
    found = score_captions(references, hypotheses, words=PLAIN)
    again = score_captions([references[i] for i in twice], [hypotheses[i] for i in twice], words=PLAIN)
    for name, weighed in found.weighed.items():
        if name != "CIDEr-D":
            assert weighed(counts) == pytest.approx(again.corpus[name], abs=1e-12), name
    interval = bootstrap(found.weighed["BLEU-4"], found.images, draws=50)
    assert interval.value == found.corpus["BLEU-4"]
    assert interval.low < interval.value < interval.high


def test_without_lists_of_words_the_name_says_so() -> None:
    found = score_captions([["the automobile"]], ["the car"], words=PLAIN)
    assert found.corpus["METEOR (exact, stem; no function words)"] < 0.5
    with_list = MeteorWords(function_words=frozenset(["the"]))
    assert with_list.name == "METEOR (exact, stem)"
    rarer = score_captions([["the automobile"]], ["the car"], words=with_list)
    assert rarer.corpus[with_list.name] < found.corpus[PLAIN.name]


def test_words_of_a_wordnet_folder(tmp_path: Path) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"index.{part}").write_text("  1 This software is free\n", encoding="utf-8")
        (tmp_path / f"{part}.exc").write_text("", encoding="utf-8")
    lines = ["auto n 1 1 @ 1 0 02958343  ", "car n 2 1 @ 2 1 02958343 02959942  ", "mouse n 1 1 @ 1 0 02330245  "]
    (tmp_path / "index.noun").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "index.verb").write_text("mouse v 1 0 1 0 01220885  \n", encoding="utf-8")
    (tmp_path / "noun.exc").write_text("mice mouse\n", encoding="utf-8")
    words = meteor_words(wordnet=tmp_path)
    assert words.senses("cars") == {2958343, 2959942}
    assert words.senses("mice") == words.senses("mouse") == {2330245, 1220885}
    assert words.senses("auto") & words.senses("car")
    assert words.senses("carpet") == frozenset()
    (tmp_path / "adv.exc").unlink()
    with pytest.raises(RunError, match="is not a folder of WordNet's files"):
        meteor_words(wordnet=tmp_path)
    with pytest.raises(RunError, match=r"is not METEOR 1\.5's jar"):
        meteor_words(jar=tmp_path / "index.noun")


def test_synonyms_of_the_jar(jars_words: MeteorWords) -> None:
    words = jars_words
    assert words.name == METEOR
    assert {"a", "the", "with"} < words.function_words
    assert not {"dog", "red"} & words.function_words
    assert words.senses("geese") & words.senses("goose")
    assert words.senses("churches") == words.senses("church")
    assert not words.senses("dog") & words.senses("table")


def test_meteor_cuts_hyphens_and_apostrophes_once_more() -> None:
    """As the jar's normaliser does it."""
    assert meteor_line("red-and-white t-shirt") == ["red", "and", "white", "t", "shirt"]
    assert meteor_line("is n't a dog 's toy") == ["is", "n", "'t", "a", "dog", "'", "s", "toy"]
    assert meteor_line("mr. smith u.s. dog st.") == ["mr.", "smith", "us", "dog", "st", "."]
    assert meteor_line("10,000 a, b pp. 5") == ["10,000", "a", ",", "b", "pp.", "5"]


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([["a"]], ["a", "b"], "2 captions for 1 images"),
        ([], [], "0 captions for 0 images"),
        ([["a"], []], ["a", "b"], "1 images have no reference, such as number 1"),
    ],
)
def test_what_does_not_fit_is_refused(references: list[list[str]], hypotheses: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_captions(references, hypotheses, words=PLAIN)


def test_without_the_stemmer_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_peer("snowballstemmer")
    monkeypatch.setitem(__import__("sys").modules, "snowballstemmer", None)
    with pytest.raises(
        ImportError, match=r"METEOR needs the package snowballstemmer: pip install headrace\[captions\]"
    ):
        score_captions([["a"]], ["a"], words=PLAIN)
