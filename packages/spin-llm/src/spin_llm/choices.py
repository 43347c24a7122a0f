"""The words that settings are chosen among, where commands can read them without importing torch."""

from typing import Literal

Preset = Literal["paper", "official", "small"]
LossType = Literal["logistic", "hinge", "exponential", "correlation", "nce"]
Optim = Literal["adamw", "adam", "rmsprop"]
Precision = Literal["float32", "bfloat16"]
Sampling = Literal["model", "vllm"]
Turns = Literal["first", "last"]
