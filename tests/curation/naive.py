"""The rules of quality once more, written as they are told: no arrays, no hashes, one text, one window after the other.

Tokens come from a regular expression of their own; windows are whole texts here, so a text's windows must be handed in.
"""

import re
from collections import Counter

from filters.curation.batch import Batch
from filters.curation.text import Text
from schemas.curation.quality import ENGLISH

OWN = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003347f]"
INNER = rf"(?:(?!{OWN})\w|[\u0301\u093f\u200d])"
WORD = rf"{INNER}+(?:(?:['’.]|,(?=[0-9])){INNER}+)*"
TOKEN = re.compile(rf"({OWN}|{WORD})|(?:([^\w\s\x00-\x1f\x7f-\xa0\u0301\u093f\u200b-\u200d\ufeff])\2*)")
TERMINAL = set(".!?。！？")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def tokens(text):
    """(token, is a word, has white space in front) of each."""
    found = []
    for match in TOKEN.finditer(text):
        found.append((match[0], match[1] is not None, match.start() == 0 or text[match.start() - 1].isspace()))
    return found


def windows(text, size):
    """The pieces, as the code under test cuts them: that is tested on its own."""
    return Batch([Text(text)]).windows(size).parts


def lines(text):
    return [line for line in text.split("\n") if tokens(line)]


def places(line):
    """What makes lines equal: the same tokens at the same places, whatever the white space is."""
    return [(match.start(), match[0]) for match in TOKEN.finditer(line)]


def paragraphs(text):
    found = [[]]
    for line in text.split("\n"):
        if tokens(line):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return ["\n".join(one) for one in found if one]


def gopher(parts):
    whole = "\n".join(parts)  # a cut ends a line; nothing here counts line breaks
    all_tokens = [one for part in parts for one in tokens(part)]
    words = [token for token, word, _ in all_tokens if word]
    all_lines = [line for part in parts for line in lines(part)]
    starts = [tokens(line)[0][0][0] for line in all_lines]
    ends = [tokens(line)[-1][0] for line in all_lines]
    return {
        "n_words": len(words),
        "mean_word_len": sum(map(len, words)) / len(words),
        "hash_ratio": whole.count("#") / len(all_tokens),
        "ellipsis_ratio": (whole.count("...") + whole.count("…")) / len(all_tokens),
        "bullet_frac": sum(start in "•-" for start in starts) / len(starts),
        "ellipsis_frac": sum(end.endswith(("...", "…")) for end in ends) / len(ends),
        "alpha_frac": sum(any(map(str.isalpha, token)) for token, _, _ in all_tokens) / len(all_tokens),
        "stop_words": len(set(ENGLISH) & set(words)),
    }


def repetition(parts, first_too=False):
    size = sum(map(len, parts))
    all_lines = [line for part in parts for line in lines(part)]
    all_paragraphs = [one for part in parts for one in paragraphs(part)]
    found = {
        "dup_line_frac": len(copies(all_lines, first_too)) / len(all_lines),
        "dup_line_char_frac": sum(map(len, copies(all_lines, first_too))) / size,
        "dup_para_frac": len(copies(all_paragraphs, first_too)) / len(all_paragraphs),
        "dup_para_char_frac": sum(map(len, copies(all_paragraphs, first_too))) / size,
    }
    words = [[token for token, _, _ in tokens(part)] for part in parts]
    for n in (2, 3, 4):
        runs = Counter(" ".join(part[i : i + n]) for part in words for i in range(len(part) - n + 1))
        (run, count) = runs.most_common(1)[0] if runs else ("", 0)
        found[f"top_{n}gram"] = len(run) * count / size
    for n in range(5, 11):
        seen, characters = set(), 0
        for part in words:
            counted, row = set(), 0  # row: how many copies begin at the tokens just before, one after the other
            for at in range(len(part) - n + 1):
                run = tuple(part[at : at + n])
                row = row + 1 if run in seen else 0
                if row % n == 1:
                    counted |= set(range(at, at + n))
                seen.add(run)
            characters += sum(len(part[at]) for at in counted)
        found[f"dup_{n}gram"] = characters / size
    return found


def copies(things, first_too=False):
    same = [[places(line) for line in one.split("\n")] for one in things]
    if first_too:
        return [one for one, what in zip(things, same, strict=True) if same.count(what) > 1]
    return [one for place, one in enumerate(things) if same[place] in same[:place]]


def fineweb(parts):
    all_lines = [line for part in parts for line in lines(part)]
    breaks = sum(part.count("\n") for part in parts)
    last = [tokens(line)[-1][0][-1] for line in all_lines]
    return {
        "line_punct_frac": sum(one in TERMINAL for one in last) / len(all_lines),
        "short_line_frac": sum(len(line) <= 30 for line in all_lines) / len(all_lines),
        "dup_line_char_frac": sum(map(len, copies(all_lines))) / (sum(map(len, parts)) - breaks),
        "break_ratio": breaks / sum(len(tokens(part)) for part in parts),
    }


def c4(parts):
    all_lines = [line for part in parts for line in lines(part)]
    solid = [line for line in all_lines if ends_well(line) and sum(word for _, word, _ in tokens(line)) >= 3]
    quiet = [line for line in solid if "javascript" not in line.lower()]
    good = [line for line in quiet if not any(one in line.lower() for one in POLICIES)]
    return {
        "sentences": sum(map(sentences, good)),
        "lorem_ipsum": sum("lorem ipsum" in line.lower() for line in solid),
        "curly_bracket": sum("{" in line for line in quiet),
        "paragraphs": sum(len(line) >= 200 for line in all_lines),
        "bad_line_frac": 1 - sum(map(len, good)) / sum(map(len, all_lines)),
    }


def ends_well(line):
    last = tokens(line)[-1][0]
    return not last.endswith("...") and (last[-1] in TERMINAL or last[-1] in "\"'”’」』")


def sentences(line):
    found, count = tokens(line), 0
    closed = False
    for place, (token, word, _) in enumerate(found):
        if word or token[0] not in TERMINAL:
            continue
        end = place
        for _ in range(2):
            if end + 1 < len(found) and found[end + 1][0][0] in "\"'”’)]»」』）" and not found[end + 1][2]:
                end += 1
        last = end == len(found) - 1
        before = found[place - 1][0] if place else ""
        initial = len(before) == 1 and before.isupper() and not found[place][2]
        apart = not last and found[end + 1][2] and not found[end + 1][0][0].islower()
        if last or (apart and not initial) or token[0] in "。！？":
            count += 1
        closed = closed or last
    return count + (not closed)
