"""How good samples are: likelihood and, beside it, diversity.

Likelihood alone rewards collapse (argmax and top-k sampling score better than real text), so every comparison reports
the unigram distance and the share of distinct rows too.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


class NGramModel:
    """Letter n-gram model of a text with add-k smoothing that backs off to the next shorter context.

    p_n(c | context) = (count(context c) + strength * p_{n-1}(c | shorter context)) / (count(context) + strength).
    """

    def __init__(self, ids: Int[Tensor, "characters"], vocab: int = 27, order: int = 4, strength: float = 1.0) -> None:
        self.vocab, self.order = vocab, order
        table = torch.full((vocab,), 1 / vocab, dtype=torch.float64)
        self.tables: list[Tensor] = []
        for n in range(1, order + 1):
            gram = sum(ids[i : len(ids) - n + 1 + i] * vocab ** (n - 1 - i) for i in range(n))
            counts = torch.bincount(torch.as_tensor(gram), minlength=vocab**n).double().view(-1, vocab)
            # the shorter context of row r drops its first letter: r modulo vocab^(n-2)
            shorter = table.repeat(counts.shape[0] // max(1, table.numel() // vocab), 1) if n > 1 else table[None]
            table = (counts + strength * shorter.view(-1, vocab)) / (counts.sum(1, keepdim=True) + strength)
            self.tables.append(table)

    def nll(self, x: Int[Tensor, "rows length"]) -> Float[Tensor, "rows"]:
        """Nats a token of each row; the first letters are scored with the context there is."""
        total = torch.zeros(len(x), dtype=torch.float64)
        for position in range(x.shape[1]):
            n = min(position + 1, self.order)
            context = torch.zeros(len(x), dtype=torch.long)
            for token in x[:, position - n + 1 : position].unbind(1):
                context = context * self.vocab + token
            total -= self.tables[n - 1][context, x[:, position]].log()
        return total / x.shape[1]


@dataclass(frozen=True)
class TextQuality:
    """Scores of a set of rows.

    Args:
        nll: mean n-gram NLL, nats a letter.
        nll_sd: its standard error over rows.
        word_share: share of the words inside a row that occur in the reference text.
        unigram_tv: total variation between the letter laws of the rows and of the reference.
        distinct: share of distinct rows.
    """

    nll: float
    nll_sd: float
    word_share: float
    unigram_tv: float
    distinct: float


class TextScorer:
    """Scores rows of letters against a reference text.

    Args:
        ids: the reference, ids 0..26.
    """

    def __init__(self, ids: Int[Tensor, "characters"]) -> None:
        from dndm_sampler.corpus import decode

        self.model = NGramModel(ids)
        self.words = set(decode(ids[None])[0].split())
        self.unigrams = torch.bincount(ids, minlength=27).double() / len(ids)

    def score(self, x: Int[Tensor, "rows length"]) -> TextQuality:
        """Quality of the rows."""
        from dndm_sampler.corpus import decode

        x = x.cpu()
        nll = self.model.nll(x)
        rows = decode(x)
        words = [word for row in rows for word in _inner_words(row)]
        known = sum(word in self.words for word in words)
        return TextQuality(
            nll=float(nll.mean()),
            nll_sd=float(nll.std() / len(nll) ** 0.5) if len(nll) > 1 else 0.0,
            word_share=known / max(1, len(words)),
            unigram_tv=unigram_tv(x, self.unigrams),
            distinct=len(set(rows)) / len(rows),
        )


def _inner_words(row: str) -> list[str]:
    """Words that are not cut by the ends of the row."""
    return row.split(" ")[1:-1] if " " in row else []


def unigram_tv(x: Int[Tensor, "rows length"], law: Float[Tensor, "vocab"]) -> float:
    """Total variation between the tokens' law in `x` and `law`."""
    found = torch.bincount(x.flatten(), minlength=len(law)).double() / x.numel()
    return float((found - law.cpu()).abs().sum() / 2)


def most_common_rows(rows: Sequence[str], number: int = 3) -> list[tuple[str, int]]:
    """The rows that occur most often: shows collapse at a glance."""
    return Counter(rows).most_common(number)


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU (sacrebleu, 0..100) of outputs against several references each; short lists are padded."""
    import sacrebleu

    width = max(map(len, references))
    streams = [[refs[min(k, len(refs) - 1)] for refs in references] for k in range(width)]
    return float(sacrebleu.corpus_bleu(list(outputs), streams, force=True).score)
