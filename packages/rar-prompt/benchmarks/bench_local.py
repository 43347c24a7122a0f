"""The embedded model, batched against one by one: the same greedy text, less time."""

import torch
from rar_prompt import GenOptions, Message, Request, Sampling, generate, load_smollm2
from shared_core.benchmark import Comparison, alternate, compare

QUESTIONS, NEW = 24, 24


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    backend = load_smollm2(batch_size=QUESTIONS, device="cpu")
    items = generate("coin-flip", QUESTIONS, 7, GenOptions())
    requests = [Request((Message("user", item.question),), Sampling(max_tokens=NEW)) for item in items]

    def batched() -> list[str]:
        return [reply.text for reply in backend.generate(requests)]

    def one_by_one() -> list[str]:
        """`generate` of transformers, a question at a time, as its documentation shows."""
        texts = []
        for request in requests:
            ids = torch.tensor([backend.encode(request.messages)])
            with torch.inference_mode():
                out = backend.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
                )
            texts.append(backend.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        return texts

    same = batched() == one_by_one()
    ours, theirs = alternate(batched, one_by_one, repeats=3, warmup=0)
    return [
        compare(
            "local-batched", f"seconds for {QUESTIONS} questions of the embedded model, {NEW} new tokens, greedy",
            "transformers generate, one by one", ours, theirs, same_result=same,
        )
    ]  # fmt: skip
