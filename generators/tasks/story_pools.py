"""Names and facts of the tasks: our own, so that nothing of a benchmark is repeated."""

import re
from random import Random

from generators.tasks.pools import in_split

_STARTS: list[str] = re.findall(
    r"\w+",
    "Al Bar Bel Bor Bran Cal Cor Dal Dor Dun El Fal Fen Gar Gil Hal Hol Ir Jor Kal Kel Lan Lor Mal Mar Mor Nar Nor Or "
    "Pel Quin Ral Ros Sar Sel Tal Tor Ul Val Ver Wen Yar Zel",
)
_MIDDLES: list[str] = re.findall(
    r"\w+",
    "a ba bri da de di do fa ga go i la le li lo ma me mi mo na ne ni no o ra re ri ro sa se so ta te to va ve vi",
)
_ENDS: list[str] = re.findall(
    r"\w+",
    "bek bury dal den dor fell ford gard gate ham hold lan lin lund mar mere mont nak ness nor port ria rin rock sel "
    "stad stow tal ton vale vik wick win zan",
)


def invented(rng: Random, split: str, taken: set[str]) -> str:
    """A made-up name of a place, of the pools' split and not in `taken`, which then holds it."""
    syllables = 1
    while True:
        middle = "".join(rng.choice(_MIDDLES) for _ in range(syllables))
        name = rng.choice(_STARTS) + middle + rng.choice(_ENDS)
        if name not in taken and in_split(name, split):
            taken.add(name)
            return name
        syllables = rng.randint(1, 3)  # there are only some 60,000 short ones


ROOMS: list[str] = re.findall(
    r"\w+", "kitchen cellar attic library workshop pantry study parlour laundry nursery greenhouse stable"
)
CONTAINERS: list[str] = re.findall(
    r"\w+",
    "box drawer basket chest cupboard jar trunk bucket bag crate vase suitcase tin barrel envelope locker sack pot "
    "cabinet case",
)
COLOURS: list[str] = re.findall(r"\w+", "red blue green yellow black white brown grey")
THINGS: list[str] = re.findall(
    r"\w+",
    "key coin letter ring whistle map candle stamp button pearl compass thimble marble ticket photograph medal brooch "
    "feather bell shell",
)

REAL_PEOPLE: list[str] = re.findall(
    r"[^,]+",
    "Mary Clarke,John Harper,Anna Schmidt,Peter Novak,Maria Rossi,Paul Martin,Helen Baker,George Wright,Clara Weber,"
    "Thomas Moore,Emma Fischer,Robert Hughes,Alice Turner,Henry Walker,Laura Bianchi,Frank Miller",
)
REAL_PLACES: list[str] = re.findall(
    r"[^,]+",
    "Bristol,Lyon,Porto,Krakow,Ghent,Uppsala,Bergen,Turin,Seville,Leipzig,Basel,Graz,Utrecht,Aarhus,Cork,Tampere",
)
# What is told of a person, a place and a year, and how each of the three is asked for.
RELATIONS = tuple(
    (
        f"In {{year}} {{person}} {past} in {{place}}.",
        {
            "year": f"In which year did {{person}} {plain} in {{place}}?",
            "person": f"Who {past} in {{place}} in {{year}}?",
            "place": f"In which place did {{person}} {plain} in {{year}}?",
        },
    )
    for past, plain in (
        ("opened the first observatory", "open the first observatory"),
        ("founded a school for clockmakers", "found a school for clockmakers"),
        ("drew the plans of the covered bridge", "draw the plans of the covered bridge"),
        ("bought the old glassworks", "buy the old glassworks"),
        ("planted the botanical garden", "plant the botanical garden"),
        ("wrote the rules of the harbour guild", "write the rules of the harbour guild"),
        ("built the first weather station", "build the first weather station"),
        ("gave the paper mill to the workers", "give the paper mill to the workers"),
        ("led the search for the lost archive", "lead the search for the lost archive"),
        ("painted the ceiling of the theatre", "paint the ceiling of the theatre"),
    )
)
