"""TRL's DPOTrainer, given the same tokens, model and optimiser."""

import tempfile

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer


class TokenisedDPOTrainer(DPOTrainer):
    """TRL tokenises text; here the rows are tokens already, the same as ours to the last one."""

    def _prepare_dataset(self, dataset, *given, **options):
        return dataset


class TRLStep:
    """One optimiser step of TRL: its own loss, backward pass and update, without its logging to disk.

    Args:
        model: with LoRA; the reference is the model as it comes, of whose adapter TRL makes a copy.
        tokenizer: its.
        pairs: rows of (prompt, chosen, rejected) token ids.
        precompute: reference log-probabilities once, before the clock starts: TRL's best setting.
        beta: of the loss.
        rate: of AdamW.
    """

    def __init__(self, model, tokenizer, pairs, precompute, beta, rate):
        self.folder = tempfile.TemporaryDirectory()
        settings = DPOConfig(
            output_dir=self.folder.name, beta=beta, per_device_train_batch_size=len(pairs), use_cpu=True, bf16=False,
            gradient_checkpointing=False, report_to=[], max_length=None, precompute_ref_log_probs=precompute,
            disable_dropout=True, learning_rate=rate, dataloader_pin_memory=False,
        )  # fmt: skip
        rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), row, strict=True)) for row in pairs]
        self.trainer = TokenisedDPOTrainer(
            model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        self.inputs = self.trainer.data_collator(list(self.trainer.train_dataset))
        weights = [weight for weight in self.trainer.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)

    def __call__(self):
        """Loss of the step."""
        self.trainer.model.train()
        loss = self.trainer.compute_loss(self.trainer.model, dict(self.inputs))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())
