"""A method for tests that makes preferences without asking a model: takes the place of long_qa."""

from generators.base import Generator
from schemas.rows import Preference


class Pairs(Generator):
    """Of each document one preference; of documents that say so, one without a short prompt."""

    method = "long_qa"

    def __init__(self, config):
        pass

    async def generate(self, row, llm):
        first, _, _ = row.text.partition("\n")
        question = "What does the text say?"
        short = None if "no short prompt" in row.text else (("user", f"{first}\n\n{question}"),)
        pair = Preference(
            prompt=(("user", f"{row.text}\n\n{question}"),),
            chosen=f"It says: {first}",
            rejected=f"Nothing at all, {len(row.text)} times.",
            language="en",
            short_prompt=short,
            document_ids=(row.document_id,),
        )
        return [pair]
