"""Made-up facts to hide in a text, in English and Chinese: what a needle says and how one asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from generators.tasks.pools import names, words

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Fact:
    """One kind of fact. `sentence` says of `{subject}` that something is `{value}`; `asks` names what is asked for;
    `subjects` draws different subjects of a split, `value` one value."""

    sentence: str
    asks: str
    subjects: Callable[[Random, str, int], list[str]]
    value: Callable[[Random, str], str]

    @property
    def parts(self) -> tuple[str, str]:
        """What stands before the value and after it."""
        before, _, after = self.sentence.partition("{value}")
        return before, after


def _people(language: str) -> Callable[[Random, str, int], list[str]]:
    return lambda rng, split, count: names(rng, split, count, language)


def _places(form: str) -> Callable[[Random, str, int], list[str]]:
    return lambda rng, split, count: [form.format(word.capitalize()) for word in words(rng, split, count)]


def _number(digits: int) -> Callable[[Random, str], str]:
    return lambda rng, split: str(rng.randrange(10 ** (digits - 1), 10**digits))


def _word(rng: Random, split: str) -> str:
    return words(rng, split, 1)[0]


FACTS = {
    "en": (
        Fact("The locker number of {subject} is {value}.", "the locker number of {subject}", _people("en"), _number(5)),
        Fact("The password of the {subject} is {value}.", "the password of the {subject}",
             _places("{} archive"), _word),
        Fact("{subject} pays a yearly rent of {value} crowns.", "the yearly rent of {subject} in crowns",
             _people("en"), _number(4)),
        Fact("The ship of {subject} bears the name {value}.", "the name of the ship of {subject}",
             _people("en"), _word),
        Fact("The bell of the {subject} weighs {value} pounds.", "the weight of the bell of the {subject} in pounds",
             _places("{} chapel"), _number(4)),
    ),
    "zh": (
        Fact("{subject}的储物柜号码是{value}。", "{subject}的储物柜号码", _people("zh"), _number(5)),
        Fact("{subject}每年要付的租金是{value}元。", "{subject}每年要付多少元租金", _people("zh"), _number(4)),
        Fact("{subject}的图书证编号是{value}。", "{subject}的图书证编号", _people("zh"), _number(6)),
    ),
}  # fmt: skip

# A thing that goes from hand to hand.
HAND_ON = {
    "en": "{giver} gave the {thing} to {taker}.",
    "zh": "{giver}把{thing}交给了{taker}。",
}
QUESTIONS = {
    "en": {
        "one": "Somewhere in the text above it is said what {asks} is. What is {asks}? Answer with that only.",
        "many": "The text above says in different places what these are: {asks}. Answer with these values only, in "
        "this order, separated by commas.",
        "chain": "According to the text above, {first} had the {thing} at first, and it went from hand to hand. Who "
        "has it in the end? Answer with the name only.",
    },
    "zh": {
        "one": "上文某处提到了这一信息：{asks}。请问答案是什么？只回答答案本身。",
        "many": "上文在不同的地方提到了这些信息：{asks}。请按此顺序只写出各个答案，用逗号分隔。",
        "chain": "根据上文，{thing}起初在{first}手里，后来几经转手。最后它在谁手里？只回答姓名。",
    },
}
BETWEEN = {"en": "; ", "zh": "；"}  # facts asked for


def things(rng: Random, split: str, count: int, language: str) -> list[str]:
    """Different things with names of their own."""
    if language == "zh":
        return [f"{name}的怀表" for name in names(rng, split, count, "zh")]
    return [f"{word.capitalize()} lantern" for word in words(rng, split, count)]
