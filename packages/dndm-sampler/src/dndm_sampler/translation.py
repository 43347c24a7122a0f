"""A toy translation task: a six-digit number into English words, in one of three dialects chosen at random.

One source has up to three right answers whose tokens do not line up, so a sampler that writes tokens in parallel must
become consistent. The dialects: plain ("three hundred forty two"), "and" after hundred ("three hundred and forty two"),
and units before tens ("three hundred two and forty").
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dndm_sampler.char_denoiser import fourier
from dndm_sampler.enumeration import NoiseName
from dndm_sampler.schedule import TransitionSchedule

UNITS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
WORDS = ["<pad>", *UNITS, *TENS, "hundred", "thousand", "and", "zero"]
PAD_ID, LENGTH, NUM_DIALECTS, DIGITS = 0, 15, 3, 6
MASK_ID = VOCAB_SIZE = len(WORDS)
_ID = {word: index for index, word in enumerate(WORDS)}


def in_words(number: int, dialect: int) -> list[str]:
    """0 <= number < 10^6 in words; dialect 0 plain, 1 with "and", 2 units before tens."""
    if number == 0:
        return ["zero"]
    thousands, rest = divmod(number, 1000)
    words = [*_below_thousand(thousands, dialect), "thousand"] if thousands else []
    return words + _below_thousand(rest, dialect)


def _below_thousand(number: int, dialect: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [UNITS[hundreds - 1], "hundred"] if hundreds else []
    if hundreds and rest and dialect == 1:
        words.append("and")
    if 0 < rest < 20:
        words.append(UNITS[rest - 1])
    elif rest:
        tens, units = TENS[rest // 10 - 2], rest % 10
        both = [UNITS[units - 1], "and", tens] if dialect == 2 else [tens, UNITS[units - 1]]
        words += both if units else [tens]
    return words


def references(numbers: Int[Tensor, "batch"]) -> Int[Tensor, "batch dialects length"]:
    """The padded translations of each number."""
    rows = [[_padded(in_words(int(number), dialect)) for dialect in range(NUM_DIALECTS)] for number in numbers]
    return torch.tensor(rows)


def _padded(words: list[str]) -> list[int]:
    return [_ID[word] for word in words] + [PAD_ID] * (LENGTH - len(words))


def to_text(tokens: Int[Tensor, "batch length"]) -> list[str]:
    """Words of each row, padding dropped."""
    names = [*WORDS, "<mask>"]
    return [" ".join(names[token] for token in row if token != PAD_ID) for row in tokens.tolist()]


def digits(numbers: Int[Tensor, "batch"]) -> Int[Tensor, "batch 6"]:
    """The source: six digits, leading zeros kept."""
    powers = 10 ** torch.arange(DIGITS - 1, -1, -1)
    return numbers[:, None] // powers % 10


def share_valid(tokens: Int[Tensor, "batch length"], refs: Int[Tensor, "batch dialects length"]) -> float:
    """Share of outputs that are exactly one of the references."""
    return float((tokens.cpu()[:, None] == refs.cpu()).all(-1).any(-1).float().mean())


class ExactTranslator:
    """The exact denoiser: the posterior over the three references (no training).

    Args:
        noise: `absorbing` or `multinomial`.
        schedule: alpha(t), used with multinomial noise.

    Called with (x, t, refs [rows, dialects, length]) it returns log-probabilities [rows, length, V].
    """

    def __init__(self, noise: NoiseName, schedule: TransitionSchedule | None = None) -> None:
        self.noise = noise
        self.schedule = schedule or TransitionSchedule("linear")

    def __call__(
        self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"], refs: Int[Tensor, "rows dialects length"]
    ) -> Float[Tensor, "rows length vocab"]:
        """Log p(x0_n | x_t, source)."""
        same = x[:, None] == refs
        if self.noise == "absorbing":
            likelihood = (same | (x == MASK_ID)[:, None]).double().clamp(min=1e-30).log()
        else:
            alpha = self.schedule.alpha(t).double()[:, None, None]
            likelihood = (alpha * same + (1 - alpha) / VOCAB_SIZE).clamp(min=1e-300).log()
        weight = likelihood.sum(-1).softmax(-1)
        law = torch.zeros(*x.shape, VOCAB_SIZE, dtype=torch.float64, device=x.device)
        law.scatter_add_(2, refs.mT, weight[:, None, :].expand(-1, x.shape[1], -1))
        return law.clamp(min=1e-300).log()


class Translator(nn.Module):
    """A small encoder-decoder denoiser: digits in, words out, all positions at once.

    Args:
        width: of the transformer.
        layers: of encoder and decoder each.
        extra_tokens: 1 where the words have a mask id, else 0.

    Called with (x, t, source [rows, 6]); `encode` once and pass `memory` instead to save the encoder on every call.
    """

    def __init__(self, width: int = 64, layers: int = 3, extra_tokens: int = 1) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB_SIZE + extra_tokens, width)
        self.digits = nn.Embedding(10, width)
        self.word_places = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.digit_places = nn.Parameter(torch.randn(DIGITS, width) * 0.02)
        self.time = nn.Linear(32, width)
        options = {"nhead": 4, "dim_feedforward": 4 * width, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, **options),  # type: ignore[arg-type]
            layers,
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(width, **options), layers)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, VOCAB_SIZE)
        self.scale = math.sqrt(width)

    def encode(self, source: Int[Tensor, "rows 6"]) -> Float[Tensor, "rows 6 width"]:
        """Features of the digits, the same at every call of a sampler."""
        return self.encoder(self.digits(source) * self.scale + self.digit_places)

    def forward(
        self,
        x: Int[Tensor, "rows length"],
        t: Float[Tensor, "rows"],
        source: Int[Tensor, "rows 6"] | None = None,
        memory: Float[Tensor, "rows 6 width"] | None = None,
    ) -> Float[Tensor, "rows length vocab"]:
        """Logits of every word."""
        if memory is None:
            if source is None:
                raise TypeError("give source or memory")
            memory = self.encode(source)
        h = self.words(x) * self.scale + self.word_places + self.time(fourier(t))[:, None]
        return self.output(self.norm(self.decoder(h, memory)))
