"""Rules of curation by name, imported when they are used."""

from importlib import import_module
from typing import Any

from schemas.curation import parse_rule

RULES = {
    "gopher_quality": "filters.curation.gopher:Gopher",
    "gopher_repetition": "filters.curation.repetition:Repetition",
    "c4": "filters.curation.c4:C4",
    "fineweb_quality": "filters.curation.fineweb:FineWeb",
    "language": "filters.curation.language:Language",
    "contamination": "filters.curation.contamination:Contamination",
    "contamination_excise": "filters.curation.contamination:Excision",
    "pii": "filters.curation.pii:Pii",
    "c4_lines": "filters.curation.c4:C4Cleaner",
}


def load_rule(section: dict[str, Any]) -> Any:
    """The Rule or Cleaner of a recipe's section (`rule` is one of RULES)."""
    config = parse_rule(section)
    module, _, name = RULES[config.rule].partition(":")
    return getattr(import_module(module), name)(config)
