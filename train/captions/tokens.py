"""Words of a caption as coco-caption cuts it before any metric: by the Penn Treebank's rules, without punctuation."""

from __future__ import annotations

import re
from functools import cache

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""What is left out. Words are in lower case by then, so that brackets, such as -lrb-, are not."""

_LETTER = r"[^\W\d_]"
_SIGN = r"[^\W_½¼¾⅓⅔]"
_APOSTROPHE = "['’´]"
_NUMBER = r"(?:\d*(?:[.,]\d+)+|\d+(?:[.:,]\d+)*)"
_WORD = rf"{_LETTER}{_SIGN}*(?:[.!?]{_LETTER}{_SIGN}*)*"
_VERB = rf"{_APOSTROPHE}(?:[msd]|re|ve|ll|em)(?!{_SIGN})"
_WITH_DOT = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz calif colo conn ct dak
    fla ga ind kan kans ky md mich minn mo mont neb nev okla penn tenn va vt wis wisc wyo inc co cos corp pty ptys ltd
    plc rt bancorp bhd assn univ intl sys tel est ext sq jr sr bros ed.d ph.d ph esq etc al seq mr mrs ms dr drs prof
    profs sen sens rep reps atty lt col gen messrs gov govs adm rev maj sgt cpl pvt capt st ste ave pres lieut hon
    brig comdr cmdr pfc spc supt det mt ft adj adv asst assoc ens insp mlle mme msgr sfc invt elec natl mfg mtg dept
    blvd rd treas vs v cf wm jos cie bldg
"""
_STATES = "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash"
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
_STARTS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One
    Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
"""


def _any(words: str) -> str:
    """One of them; the longest where several fit."""
    return "|".join(re.escape(word) for word in sorted(words.split(), key=len, reverse=True))


_RULES = tuple(
    re.compile(rule, re.IGNORECASE)
    for rule in (
        # What the first group takes is the word; how far a rule looks decides between rules.
        rf"({_WORD}){_VERB}",
        rf"({_LETTER}*(?-i:[A-MO-Za-mo-z]))n{_APOSTROPHE}t(?!{_SIGN})",
        rf"({_NUMBER}){_APOSTROPHE}s(?!{_SIGN})",
        r"(can)not(?!\w)",
        rf"({_APOSTROPHE}t)(?:was|is)(?!\w)",
        r"(gon|wan|got|lem|gim)(?:(?<=n)na|(?<=t)ta|(?<=m)me)(?!\w)",
        rf"(n{_APOSTROPHE}t|{_VERB})(?!{_SIGN})",
        rf"([ld]{_APOSTROPHE}{_LETTER}+|[lj]{_APOSTROPHE}|o{_APOSTROPHE}{_LETTER}+)",
        rf"({_APOSTROPHE}(?:n{_APOSTROPHE}|(?:n|till?|cause|[1-9]0s)(?!{_SIGN})|\d\d(?!\S)))",
        rf"({_LETTER}+[aeiouy]{_APOSTROPHE}[aeiou]{_LETTER}*)",
        rf"((?:ma{_APOSTROPHE}am|cap{_APOSTROPHE}n|ol{_APOSTROPHE}|nor{_APOSTROPHE}easter|c{_APOSTROPHE}mon)(?!{_SIGN}))",
        rf"((?:y|th){_APOSTROPHE}){_LETTER}",
        rf"({_WORD})",
        r"((?:https?|ftp)://[^\s<>|(){}\[\]`“”‘’]+[^\s<>|(){}\[\].!?,;:&`\"'*“”‘’-])",
        r"(www\.(?:[^\s<>|(){}\[\]`.!?,]+\.)+[a-z]{2,4}(?:/[^\s<>|(){}]+[^\s<>|(){}.!?,;:&-])?)",
        r"((?:[^\s<>|(){}\[\]`.!?,:/$]+\.)+(?:com|net|org|edu)(?:/[^\s<>|(){}]+[^\s<>|(){}.!?,;:&-])?)",
        r"([a-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}\[\].,;:]+|@[a-z_]\w*|\#[^\W\d]\w*)",
        r"(</?[a-z!?][^<>]*>)",
        rf"([-+]?{_NUMBER})",
        r"((?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4}|\d{1,2}/\d{1,2}/\d{2,4})",
        rf"((?:{_SIGN}+|[-+]?{_NUMBER})(?:[-‐‑](?:[dol]{_APOSTROPHE}{_SIGN})?(?:{_NUMBER}|{_SIGN}+))*)",
        rf"({_SIGN}(?:{_SIGN}|[.,])*(?:[-_](?:{_LETTER}(?:\.{_LETTER})+\.|{_SIGN}+))+)",
        rf"({_SIGN}+(?:-{_LETTER}+){{0,2}}(?:/{_SIGN}+(?:-{_LETTER}+){{0,2}}){{1,2}})",
        r"((?-i:[A-Z]+(?:[+&][A-Z]+)+))",
        rf"((?:{_any(_WITH_DOT)}|(?-i:{_any(_STATES)}))\.)",
        rf"((?:{_any(_BEFORE_NUMBERS)})\.)\s*\d",
        rf"([a-z])\.(?:\s*$|\s+(?-i:{_any(_STARTS)})(?![\w.]))",  # the end of a sentence
        r"([a-z](?:\.[a-z])*\.)",
        r"(\.(?:[ \u00a0]\.){2,}|\.{3,})",
        r"([?!]+|-{2,}|\*+|@+|_+|\#+|<<|>>)",
        r"([<>]?[:;=][-o*']?[()dpo{@|\[\]])(?![a-z])",
        r"(\S)",
    )
)
_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "…": "...", "—": "--",
    "–": "--", "―": "--", "¢": "cents", "£": "#", "€": "$", "¤": "$", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3",
    "⅔": "2/3", **dict.fromkeys('"“”„«»', "''"), **dict.fromkeys("`‘’‚‛‹›´", "'"),
}  # fmt: skip
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}


def caption_words(caption: str) -> str:
    """The words of a caption with single spaces between them, in lower case.

    What is told apart: "isn't" is "is n't", "dog's" is "dog 's", "$5.00" is "$ 5.00"; "red-and-white", "1/2" and
    "o'clock" stay whole. `PUNCTUATION` is left out, as coco-caption leaves it out.

    Source: tylin/coco-caption at 3a9afb2, pycocoevalcap/tokenizer/ptbtokenizer.py, which calls Stanford's PTBTokenizer
    3.4.1; its rules, as far as captions need them. Of 40,000 glosses of WordNet 11 come out differently: that program
    looks at the next caption to say whether the full stop behind a single letter ends a sentence, which here it does at
    the end of a caption.
    """
    for entity, sign in _ENTITIES.items():
        if "&" in caption:
            caption = caption.replace(entity, sign)
    return " ".join(word for word in _split(caption) if word not in PUNCTUATION)


def _split(text: str) -> list[str]:
    words = []
    place, end = 0, len(text)
    while place < end:
        if text[place].isspace():
            place += 1
            continue
        word = _longest(text, place)
        place += len(word)
        if written := _written(word):
            words.append(written)
    return words


def _longest(text: str, place: int) -> str:
    """The word of the rule that looks farthest; of those that look equally far, of the first."""
    word, reach = "", place
    for rule in _RULES:
        found = rule.match(text, place)
        if found is not None and found.end() > reach:
            word, reach = found[1], found.end()
    return word


@cache
def _written(word: str) -> str:
    """What the treebank writes for it; nothing for what is beyond the basic plane, such as emoji."""
    if word in _WRITTEN:
        return _WRITTEN[word]
    if len(word) == 1 and ord(word) > 0xFFFF:
        return ""
    if set(word) == {"-"} and len(word) > 1:
        return "--"
    if word[0] == "." and set(word) <= {".", " ", "\u00a0"} and len(word) > 2:
        return "..."
    if word[0] in "<>:;=" and word[-1] in "()[]{}":
        word = word[:-1] + _WRITTEN[word[-1]]
    if word[-3:].lower() in ("n’t", "n‘t") or word[0] in "’‘´`‛":
        word = word.replace("’", "'").replace("‘", "'").replace("´", "'").replace("`", "'").replace("‛", "'")
    return word.replace(" ", "\u00a0").lower()
