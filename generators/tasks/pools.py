"""What tasks are made of: made-up words and names, UUIDs. Each pool is cut in two, so that nothing that a training task
uses ever stands in an evaluation task. All of it is put together from syllables: no benchmark holds it."""

import hashlib
import re
from functools import cache
from itertools import product
from random import Random

SPLITS = ("train", "eval")
_EVAL_SHARE = 5  # one in five

_STARTS = re.findall(r"\w+", "B Br D Dr F Fl G Gr H J K Kl L M N P Pr R S St T Tr V Z")
_MIDDLES = re.findall("..", "alanarelenerilinirolonorulunuravevivovadedidodag")
_ENDS = re.findall(r"\w+", "a e i o ak ek ik ok ash esh ith oth ard urn im um")
_FAMILY_ENDS = (
    "berg", "dal", "dorn", "fell", "ford", "holt", "lund", "mark", "mere", "mond", "rick", "stad", "strand", "vale",
    "wick", "win", "wold", "worth",
)  # fmt: skip
_ZH_FAMILY = list("安白柏曹岑常车程池褚邓丁董窦杜樊范方冯傅葛宫顾郭韩何贺洪侯胡华黄霍姬季江姜蒋金康")
_ZH_GIVEN = "博才辰达丹芳枫刚歌冠国海涵浩禾恒虹嘉江杰静君凯岚磊黎亮琳龙鸣宁鹏琪清然荣锐森松涛文曦翔霄雅扬宇泽舟"


def in_split(text: str, split: str) -> bool:
    """Does this belong to that split? Every text belongs to exactly one of SPLITS."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
    return (number % _EVAL_SHARE == 0) == (split == "eval")


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is train or eval, not {split!r}")


@cache
def all_words(split: str) -> list[str]:
    """All made-up words of a split, in lower case, of five letters or more: shorter ones are often English."""
    made = dict.fromkeys("".join(parts).lower() for parts in product(_STARTS, _MIDDLES, _ENDS))
    return [word for word in made if len(word) > 4 and in_split(word, split)]


def words(rng: Random, split: str, count: int) -> list[str]:
    """Different made-up words."""
    return rng.sample(all_words(split), count)


@cache
def _name_parts(split: str, language: str) -> tuple[list[str], list[str]]:
    if language == "zh":
        given = ["".join(pair) for pair in product(_ZH_GIVEN, repeat=2)]
        return _ZH_FAMILY, [name for name in given if in_split(name, split)]
    family = ["".join(parts) for parts in product(_STARTS, _MIDDLES, _FAMILY_ENDS)]
    return [word.capitalize() for word in all_words(split)], [name for name in family if in_split(name, split)]


def names(rng: Random, split: str, count: int, language: str = "en") -> list[str]:
    """Different names of people: given and family name, in Chinese family name first."""
    first, second = _name_parts(split, language)
    between = "" if language == "zh" else " "
    picked = rng.sample(range(len(first) * len(second)), count)
    return [f"{first[n % len(first)]}{between}{second[n // len(first)]}" for n in picked]


def uuid(rng: Random, split: str) -> str:
    """A random UUID (version 4). Those of the two splits differ in the parity of their bits."""
    bits = rng.getrandbits(128) & ~(0xF << 76) & ~(0x3 << 62) | (0x4 << 76) | (0x2 << 62)
    if (bits.bit_count() & 1) != (split == "eval"):
        bits ^= 1
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
