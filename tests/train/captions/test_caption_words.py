"""Words of captions as Stanford's PTBTokenizer 3.4.1 cuts them, which was run on these lines with -preserveLines and
-lowerCase; coco-caption's list of punctuation was dropped from what it said."""

from __future__ import annotations

import pytest

from headrace.train.captions import caption_words

SEEN = [
    ("A grey colour at the centre.", "a grey colour at the centre"),
    (
        "isn't can't cannot gonna wanna I'm you're they've he'd she'll",
        "is n't ca n't can not gon na wan na i 'm you 're they 've he 'd she 'll",
    ),
    ("DON'T IT'S DOG'S dogs' James's", "do n't it 's dog 's dogs james 's"),
    ("can't've should've shouldn't've aint ain't", "ca n't 've should 've should n't 've aint ai n't"),
    ("A man's hat isn’t red. The dogs’ toys", "a man 's hat is n't red the dogs toys"),
    ("$5.00 £5 €5 5¢ 50% #1 @home a@b.com www.foo.com", "$ 5.00 # 5 $ 5 5 cents 50 % # 1 @home a@b.com www.foo.com"),
    (
        "red-and-white well-known 1/2 black/white o'clock & AT&T a&b",
        "red-and-white well-known 1/2 black/white o'clock & at&t a & b",
    ),
    (
        "(a man) [a dog] \"quoted\" 'single' “curly” ‘one’ it’s",
        "-lrb- a man -rrb- -lsb- a dog -rsb- quoted single curly one it 's",
    ),
    ("Hello... what?! wait!!! a--b a - b a — b a – b a… .", "hello what ?! wait !!! a b a b a b a b a"),
    (
        "Mr. Smith Dr. No U.S. e.g. etc. St. no. p.m. 5 p.m. J. Smith",
        "mr. smith dr. no u.s. e.g. etc. st. no p.m. 5 p.m. j. smith",
    ),
    (
        "10,000 3.14 1,2 a,b 10:30 3:30pm 2x4 1st 1990's '90s 100's",
        "10,000 3.14 1,2 a b 10:30 3:30 pm 2x4 1st 1990 's '90s 100 's",
    ),
    ("end of sentence. Another one. the end.the start", "end of sentence another one the end.the start"),
    ("*star* +1 a+b = == ~ ^ | \\ / _ under_score a_b", "* star * +1 a + b = = = ~ ^ | \\ / _ under_score a_b"),
    ("½ cup 90° 45degrees émigré café 犬", "1/2 cup 90 ° 45degrees émigré café 犬"),
    (
        "rock'n'roll y'all ma'am 'tis 'twas d'oh o'brien cap'n goin'",
        "rock 'n' roll y' all ma'am 't is 't was d'oh o'brien cap'n goin",
    ),
    ("T-shirt x-ray 3-D two-year-old -5 - -- --- a- -b", "t-shirt x-ray 3-d two-year-old -5 a b"),
    (":) ;-) <3 <b> & &amp; &lt;", ":-rrb- ;--rrb- < 3 <b> & & <"),
    ("#5 no. 5 bus. no. of. fig. 3. p. 5 vol. 2", "# 5 no. 5 bus no of fig. 3 p. 5 vol 2"),
    ("dog. cat! 7am. 5ft. mass. St. Paul. Mt. Everest.", "dog cat 7am 5ft mass st. paul mt. everest"),
    ("a... b.. d . . . e", "a. b. d e"),
    ("😀 man ♥ dog © ®", "man ♥ dog © ®"),
    ("two dogs;one cat dog:cat dog,cat dog.cat dog!cat", "two dogs one cat dog cat dog cat dog.cat dog!cat"),
    ('5\'10" tall 12" pizza 6\'2', "5 10 tall 12 pizza 6 2"),
    ("the letter a. It is in the letter J. Smith", "the letter a it is in the letter j. smith"),
    ("the `no' the 'new' don 't o 'clock", "the no the new don t o clock"),
    ("   leading and   double  spaces\ttab ", "leading and double spaces tab"),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "words"), SEEN)
def test_words_are_the_treebanks(caption: str, words: str) -> None:
    assert caption_words(caption) == words


def test_words_cut_again_stay_as_they_are() -> None:
    for _, words in SEEN[:6]:
        assert caption_words(words) == words


@pytest.mark.parametrize("part", ["a.", ".,", "a-", "a'", "a/", "<a", "1,", "a@", "www.", "-", ". ", "(a"])
def test_what_no_person_writes_takes_no_time(part: str) -> None:
    """Rules that look back over what they have seen would take years of it."""
    assert caption_words("a" + 2000 * part)
    assert caption_words("a" + 2000 * "." + 50 * part)
