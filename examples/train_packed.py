"""Supervised fine-tuning with TRL's SFTTrainer on rows that Longloom has packed.

python examples/train_packed.py workspace/exports/out --model MODEL_FOLDER --to trained

Needs `pip install longloom[train]` (TRL 1.10 or newer). Reads the export's config `packed`. TRL is told to leave the
rows as they are: no tokenising, no cutting, no packing of its own. One row is one batch; samples in it do not see each
other (padding-free, borders by `seq_lengths`). The loss is TRL's own, the mean over all targets of an optimiser step;
rows with `loss_weights` are for examples/train_weighted.py.
"""

import argparse

from datasets import Dataset, load_dataset
from trl import SFTConfig, SFTTrainer

COLUMNS = ["input_ids", "labels", "seq_lengths"]


def packed_rows(folder: str) -> Dataset:
    """The rows that TRL reads. ValueError where they must be trained with weights or hold no borders."""
    rows = load_dataset(folder, "packed", split="train")
    if any(weights is not None for weights in rows["loss_weights"]):
        raise ValueError("its rows have loss_weights, which TRL ignores: use examples/train_weighted.py")
    return rows.select_columns(COLUMNS)


def settings(arguments: argparse.Namespace) -> SFTConfig:
    import torch

    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=arguments.to,
        dataset_kwargs={"skip_prepare_dataset": True},
        padding_free=True,
        max_length=None,  # TRL's own default of 1,024 would cut rows
        per_device_train_batch_size=1,
        gradient_accumulation_steps=arguments.accumulate,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,  # a share of all steps
        num_train_epochs=1,
        max_steps=arguments.max_steps,
        gradient_checkpointing=True,
        bf16=gpu,
        use_cpu=not gpu,
        # Without FlashAttention the mask is built from the positions, which is right and slow.
        model_init_kwargs={"attn_implementation": "flash_attention_2"} if arguments.flash else None,
        logging_steps=1,
        save_strategy="no",  # the model is saved once, at the end
        report_to="none",
        seed=arguments.seed,
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the folder of an export with the config `packed`")
    parser.add_argument("--model", required=True, help="folder or hub name of the model whose tokenizer made the rows")
    parser.add_argument("--to", default="trained", help="where the trained model goes")
    parser.add_argument("--flash", action="store_true", help="use FlashAttention 2 (a GPU and the package flash-attn)")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--accumulate", type=int, default=8, help="rows in one optimiser step")
    parser.add_argument("--max-steps", type=int, default=-1, help="default: one epoch")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> SFTTrainer:
    arguments = parse(argv)
    try:
        rows = packed_rows(arguments.data)
    except ValueError as error:
        raise SystemExit(f"{arguments.data}: {error}") from error
    trainer = SFTTrainer(model=arguments.model, args=settings(arguments), train_dataset=rows)
    trainer.train()
    trainer.save_model(arguments.to)
    return trainer


if __name__ == "__main__":
    main()
