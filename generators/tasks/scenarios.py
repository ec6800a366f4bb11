"""What the long texts of `golden_thread` are about: things to mention, and sentences of its template."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Scenario:
    """`unit`: what its parts are called. `things`: what may have to be mentioned; none stands in a sentence. `mention`:
    a sentence that mentions a thing. `parts`: what sentences are made of, one choice of each list after another."""

    name: str
    unit: str
    task: str
    things: tuple[str, ...]
    mention: str
    parts: tuple[tuple[str, ...], ...]

    def sentence(self, rng: Random) -> str:
        return " ".join(rng.choice(choices) for choices in self.parts)


SCENARIOS = (
    Scenario(
        "diary",
        "Week",
        "Write the diary of a ferry captain, one entry for each week.",
        (
            "birthday of the pilot", "visit of the inspector", "new engine", "village wedding", "letter from overseas",
            "broken rudder", "music on deck", "lesson in knots", "count of the gulls", "school trip",
            "painting of the hull", "race of the rowing boats", "shortage of rope",
        ),
        "This week I must write down one thing before all others, and that is the {thing}.",
        (
            ("On Monday", "On Tuesday", "One morning", "Late on Thursday", "After the last trip", "At noon"),
            ("the fog lay", "the wind stood", "the tide ran", "rain hung", "the sun stayed", "a swell rolled"),
            ("over the harbour", "along the north shore", "outside the bay", "between the islands", "at the old mole"),
            ("and I kept", "so we held", "while the crew kept", "but the boat held", "and still we kept"),
            ("a slow course", "to the timetable", "close to the buoys", "well away from the rocks", "the lamps lit"),
            ("until evening.", "for an hour.", "as we always do.", "without much talk.", "with cold hands."),
        ),
    ),
    Scenario(
        "tower",
        "Floor",
        "Describe a new tower for a city of the future, floor by floor, from the bottom to the top.",
        (
            "roof of glass bees", "archive of maps", "indoor skating rink", "seed bank", "clinic for children",
            "repair workshop", "tea garden", "planetarium", "night market", "choir hall", "tannery museum",
            "climbing wall", "court of appeal",
        ),
        "What this floor is known for in the whole house, and what most people come up to see, is the {thing}.",
        (
            ("The visitor", "A resident", "Whoever steps out", "Each guest", "The caretaker", "A child"),
            ("first sees", "walks past", "soon finds", "turns towards", "crosses", "looks across"),
            ("a bright corridor", "the curved windows", "a row of benches", "the wide stairs", "a quiet corner"),
            ("of pale wood", "in grey stone", "with copper rails", "under low lamps", "full of plants"),
            ("and hears", "and notices", "and remembers", "and likes", "and points at"),
            ("the hum of the lifts.", "the wind outside.", "steps from above.", "the view to the river.", "old tiles."),
        ),
    ),
    Scenario(
        "menu",
        "Week",
        "Write the weekly menu notes of a small hospital kitchen, one note for each week.",
        (
            "pumpkin soup", "visit of the dietician", "plum dumplings", "delivery of sea salt", "lentil stew",
            "fasting day", "rye bread", "birthday cake", "new oven", "barley salad", "smoked trout",
            "elderflower jelly", "contest of the cooks",
        ),
        "The point that everybody in the kitchen has to know about this week is the {thing}.",
        (
            ("For lunch", "At supper", "On Wednesday", "At the weekend", "For the night shift", "On the first day"),
            ("we plan", "we serve", "we try", "we prepare", "we bring back"),
            ("a mild dish", "a light plate", "a warm bowl", "something simple", "a full tray"),
            ("of potatoes", "of beans", "of rice", "of carrots", "of noodles", "of apples"),
            ("with herbs", "with a little butter", "with yoghurt", "in clear broth", "without pepper"),
            ("and fruit afterwards.", "and plenty of water.", "in small portions.", "as the wards asked.", "for all."),
        ),
    ),
    Scenario(
        "city",
        "Block",
        "Describe a planned town, block by block.",
        (
            "fire station", "open-air theatre", "public bath", "fish market", "bicycle tower", "weather mast",
            "glassblowers' yard", "old people's home", "puppet theatre", "water tower", "skate park", "language school",
            "orchard of pears",
        ),
        "What sets this block apart from those beside it, and gave rise to many debates, is the {thing}.",
        (
            ("Along the street", "Behind the houses", "At the corner", "To the west", "Near the crossing"),
            ("there will be", "the plan shows", "people will find", "the council wants", "one will see"),
            ("narrow gardens", "low houses", "a row of limes", "shops with awnings", "benches and lamps", "wide paths"),
            ("built of brick", "painted in ochre", "set back a little", "open to all", "kept free of cars"),
            ("and beyond them", "and next to them", "and between them", "and facing them"),
            ("a playground.", "a small square.", "a stop of the tram.", "a pond.", "a bakery."),
        ),
    ),
)  # fmt: skip
