"""TRL's GRPOTrainer at the settings of justrl.py, with a clock, for bench.trl_compare and the lab.

    python -m bench.trl SETTINGS.json              in a Python that has TRL

AdamW without a reference model, clip 0.2 / 0.28, dual clip 10, the mean over tokens and the
strict-box reward. The rest is in SETTINGS. Writes the processor seconds, tokens and mean reward of
each step to settings["out"], a .json file, and checkpoints to the folder of that name with .run.
"""

import json
import sys
import time
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from rewards import strict_box
from trainer.run.files import read_jsonl, write_atomically


class Timed(GRPOTrainer):
    """GRPOTrainer with a clock around its steps, without the time that saving takes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rows = []

    def _generate_and_score_completions(self, inputs):
        self.end_step()
        self.rows.append({"step": -time.process_time()})
        outputs = super()._generate_and_score_completions(inputs)
        self.rows[-1]["tokens"] = int(outputs["completion_mask"].sum())
        return outputs

    def _calculate_rewards(self, *args, **kwargs):
        rewards = super()._calculate_rewards(*args, **kwargs)
        self.rows[-1]["reward"] = rewards.mean().item()
        return rewards

    def _save_checkpoint(self, *args, **kwargs):
        start = time.process_time()
        super()._save_checkpoint(*args, **kwargs)
        self.rows[-1]["step"] -= time.process_time() - start

    def end_step(self) -> None:
        if self.rows:
            self.rows[-1]["step"] += time.process_time()


def reward(completions, answer, **_) -> list[float]:
    pairs = zip(completions, answer, strict=True)
    return [strict_box(turns[0]["content"], gold) for turns, gold in pairs]


def train(settings: dict) -> list[dict]:
    updates, samples = settings["updates_per_step"], settings["samples_per_prompt"]
    config = GRPOConfig(
        output_dir=str(Path(settings["out"]).with_suffix(".run")),
        per_device_train_batch_size=settings["prompts_per_step"] * samples // updates,
        gradient_accumulation_steps=1,
        steps_per_generation=updates,
        num_iterations=1,
        num_generations=samples,
        max_completion_length=settings["max_response_tokens"],
        temperature=1.0,
        max_steps=updates * settings["steps"],
        shuffle_dataset=False,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        delta=10.0,
        loss_type="dapo",
        scale_rewards="group",
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings["warmup_steps"] * updates,
        weight_decay=0.1,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=settings["save_every"] * updates,
        save_only_model=True,
        logging_steps=updates,
        report_to=[],
        disable_tqdm=True,
        seed=settings["seed"],
    )
    rows = [
        {"prompt": [{"role": "user", "content": row["problem"]}], "answer": row["answer"]}
        for row in read_jsonl(settings["problems"])
    ]
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype="float32"),
        processing_class=PreTrainedTokenizerFast.from_pretrained(settings["model"]),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    trainer.end_step()
    return trainer.rows


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    write_atomically(Path(settings["out"]), json.dumps({"steps": train(settings)}))


if __name__ == "__main__":
    main()
