"""LongPO with TRL's DPOTrainer, so that the reference log-probabilities from the short prompt are really used.

python examples/train_longpo.py workspace/exports/out --model MODEL_FOLDER --to trained

Needs `pip install longloom[train]` (TRL 1.10 or newer). Reads the export's config `preference`; its columns
ref_chosen_logps and ref_rejected_logps come from the recipe's `score` list (docs/scoring.md). MODEL_FOLDER must be the
model they were computed with: that is where training starts. Loss (arXiv 2502.13922, eq. 14):
lambda x DPO + negative log-likelihood of the chosen answer.
"""

import argparse
from typing import Any

from datasets import Dataset, load_dataset
from trl import DPOConfig, DPOTrainer

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class LongPOTrainer(DPOTrainer):
    """A DPOTrainer that takes reference log-probabilities from the dataset. TRL itself ignores the columns without
    `precompute_ref_log_probs`, and with it computes its own, from the long prompt."""

    def __init__(self, *, args: DPOConfig, train_dataset: Dataset, **options: Any) -> None:
        check_columns(train_dataset)
        if not args.precompute_ref_log_probs:
            raise ValueError("precompute_ref_log_probs must be True: without it TRL ignores the columns")
        if args.ld_alpha is not None:
            raise ValueError("ld_alpha weighs parts of an answer, and the columns hold sums over whole answers")
        super().__init__(args=args, train_dataset=train_dataset, **options)
        check_nothing_cut(self.train_dataset, len(train_dataset), args.max_length)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        check_columns(dataset)
        return dataset


def check_columns(dataset: Dataset) -> None:
    """ValueError unless every row has both numbers."""
    for column in COLUMNS:
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column {column}: score the preferences, then export them again")
        missing = [index for index, value in enumerate(dataset[column]) if value is None or value != value]
        if missing:
            raise ValueError(
                f"{column} is empty in {len(missing)} of {len(dataset)} rows, the first is row {missing[0]}: run the "
                "recipe's score stage, and leave out rows that it could not score"
            )


def check_nothing_cut(prepared: Dataset, rows: int, max_length: int | None) -> None:
    """ValueError where TRL dropped rows or would cut answers: the columns hold sums over whole answers."""
    if len(prepared) != rows:
        raise ValueError(
            f"TRL dropped {rows - len(prepared)} of {rows} rows: their prompts fill max_length={max_length}"
        )
    if max_length is None:
        return
    lengths = [
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in prepared.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    ]
    cut = [length for length in lengths if length > max_length]
    if cut:
        raise ValueError(
            f"{len(cut)} of {rows} rows are longer than max_length={max_length}, the longest has {max(cut)}"
        )


def settings(arguments: argparse.Namespace) -> DPOConfig:
    import torch

    gpu = torch.cuda.is_available()
    return DPOConfig(
        output_dir=arguments.to,
        precompute_ref_log_probs=True,
        max_length=arguments.max_length,  # TRL's own default of 1,024 would drop most of a long-context dataset
        beta=arguments.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[arguments.dpo_weight, 1.0],
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,  # a share of all steps
        num_train_epochs=1,
        max_steps=arguments.max_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=arguments.accumulate,
        gradient_checkpointing=True,
        bf16=gpu,
        use_cpu=not gpu,
        logging_steps=1,
        save_strategy="no",  # the model is saved once, at the end
        report_to="none",
        seed=arguments.seed,
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the folder of an export with the config `preference`")
    parser.add_argument(
        "--model", required=True, help="folder or hub name of the model that wrote and scored the answers"
    )
    parser.add_argument("--to", default="trained", help="where the trained model goes")
    parser.add_argument("--max-length", type=int, help="refuse longer rows (default: any length is trained on)")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--dpo-weight", type=float, default=0.01, help="lambda of the paper")
    parser.add_argument("--learning-rate", type=float, default=5e-7)
    parser.add_argument("--accumulate", type=int, default=8, help="rows in one optimiser step")
    parser.add_argument("--max-steps", type=int, default=-1, help="default: one epoch")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> LongPOTrainer:
    arguments = parse(argv)
    dataset = load_dataset(arguments.data, "preference", split="train")
    try:
        trainer = LongPOTrainer(model=arguments.model, args=settings(arguments), train_dataset=dataset)
    except ValueError as error:
        raise SystemExit(f"{arguments.data}: {error}") from error
    trainer.train()
    trainer.save_model(arguments.to)
    return trainer


if __name__ == "__main__":
    main()
