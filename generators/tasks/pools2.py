"""Names and facts of the tasks: our own, so that nothing of a benchmark is repeated."""

from random import Random

_STARTS = (
    "Al Bar Bel Bor Bran Cal Cor Dal Dor Dun El Fal Fen Gar Gil Hal Hol Ir Jor Kal Kel Lan Lor Mal Mar Mor Nar Nor Or "
    "Pel Quin Ral Ros Sar Sel Tal Tor Ul Val Ver Wen Yar Zel"
).split()
_MIDDLES = (
    "a ba bri da de di do fa ga go i la le li lo ma me mi mo na ne ni no o ra re ri ro sa se so ta te to va ve vi"
).split()
_ENDS = (
    "bek bury dal den dor fell ford gard gate ham hold lan lin lund mar mere mont nak ness nor port ria rin rock sel "
    "stad stow tal ton vale vik wick win zan"
).split()


def invented(rng: Random, taken: set[str]) -> str:
    """A made-up name of one word that is not in `taken`, which then holds it."""
    syllables = 1
    while True:
        middle = "".join(rng.choice(_MIDDLES) for _ in range(syllables))
        name = rng.choice(_STARTS) + middle + rng.choice(_ENDS)
        if name not in taken:
            taken.add(name)
            return name
        syllables = rng.randint(1, 3)  # there are only some 60,000 short ones


PEOPLE = (
    "Ada Bruno Carla Dario Edda Falk Greta Hugo Ines Jonas Karin Leon Mira Nils Olga Pavel Rosa Samir Tilda Urs Vera "
    "Wanda Xenia Yusuf Zita"
).split()
ROOMS = "kitchen cellar attic library workshop pantry study parlour laundry nursery greenhouse stable".split()
CONTAINERS = (
    "box drawer basket chest cupboard jar trunk bucket bag crate vase suitcase tin barrel envelope locker sack pot "
    "cabinet case"
).split()
COLOURS = "red blue green yellow black white brown grey".split()
THINGS = (
    "key coin letter ring whistle map candle stamp button pearl compass thimble marble ticket photograph medal brooch "
    "feather bell shell"
).split()
