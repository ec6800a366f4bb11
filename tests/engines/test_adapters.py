"""An engine with a LoRA adapter: another identity, other answers, the same ones under every backend."""

import asyncio
import importlib.util
from pathlib import Path

import pytest
from openai_server import chat
from tiny import write_model

from generators.engines import create_engine
from schemas.engines import TransformersEngine, VllmEngine
from schemas.errors import UserError

if importlib.util.find_spec("peft") is None or importlib.util.find_spec("torch") is None:
    pytest.skip("needs torch and peft", allow_module_level=True)


def write_adapter(model: Path, folder: Path, seed: int, scale: float) -> Path:
    """Random weights; PEFT's own start is all zeros, which changes nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    adapted.save_pretrained(folder)
    return folder


def ask(section, base_dir: Path, prompt: str = "Tell me about tea.", tokens: int = 12):
    """Identity and greedy answer."""

    async def work():
        engine = create_engine(section, base_dir, base_dir / "logs")
        try:
            await engine.start()
            request = chat(("user", prompt), max_tokens=tokens)
            return engine.identity, (await engine.generate(await engine.prepare(request))).text
        finally:
            await engine.close()

    return asyncio.run(work())


def test_transformers_answers_as_the_merged_model_does(tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = write_model(tmp_path / "model")
    write_adapter(model, tmp_path / "adapter", seed=1, scale=0.3)
    section = TransformersEngine(type="transformers", model="model", dtype="float32", device="cpu")
    identity, plain = ask(section, tmp_path)
    adapted, text = ask(section.model_copy(update={"adapter": "adapter"}), tmp_path)
    assert text != plain
    assert adapted.model.startswith("model+") and adapted.revision != identity.revision
    assert adapted.template == identity.template
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), tmp_path / "adapter"
    )
    merged.merge_and_unload().save_pretrained(tmp_path / "merged")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "merged" / file).write_bytes((model / file).read_bytes())
    assert ask(section.model_copy(update={"model": "merged"}), tmp_path)[1] == text


def test_other_weights_are_another_identity(tmp_path):
    """Known without a start: nothing is loaded."""
    model = write_model(tmp_path / "model")
    identities = set()
    for seed in (1, 2, 1):
        write_adapter(model, tmp_path / "adapter", seed, 0.3)
        section = TransformersEngine(type="transformers", model=str(model), adapter=str(tmp_path / "adapter"))
        identities.add(create_engine(section, tmp_path).identity)
    assert len(identities) == 2


def test_a_folder_without_an_adapter_is_named(tmp_path):
    section = TransformersEngine(type="transformers", model=str(write_model(tmp_path / "model")), adapter="nothing")
    with pytest.raises(UserError, match=r"adapter 'nothing': there is no .*nothing/adapter_config\.json"):
        _ = create_engine(section, tmp_path).identity


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")
def test_vllm_answers_with_an_adapter_as_transformers_does(tmp_path):
    """And not as without it. The first tokens, greedy: later ones may differ by rounding."""
    model = write_model(tmp_path / "model", hidden_size=128)  # vLLM has no attention for smaller heads
    adapter = str(write_adapter(model, tmp_path / "adapter", seed=3, scale=0.3))
    options = {"model": str(model), "max_model_len": 512, "dtype": "float32"}
    tokens = 8
    reference = TransformersEngine(type="transformers", device="cpu", **options)
    _, plain = ask(reference, tmp_path, tokens=tokens)
    _, expected = ask(reference.model_copy(update={"adapter": adapter}), tmp_path, tokens=tokens)
    _, text = ask(VllmEngine(type="vllm", adapter=adapter, **options), tmp_path, tokens=tokens)
    assert text == expected != plain
