"""Recipe section of the rule digits."""

from typing import Literal

from schemas.curation.base import CurationRule
from schemas.model import Share


class DigitsConfig(CurationRule):
    """Tables and logs teach little: at most this share of a text's letters and digits may be digits."""

    rule: Literal["digits"]
    max_share: Share = 0.3
