"""What options may be; written out here so that `--help` needs no torch."""

from typing import Literal

BetaConvention = Literal["plain", "salesforce"]
Guard = Literal["off", "warn", "stop", "shrink"]
Link = Literal["logistic", "hinge", "exponential", "correlation"]
OnError = Literal["stop", "skip"]
Precision = Literal["float32", "bfloat16", "float16"]
Preset = Literal["paper", "small"]
RefMode = Literal["auto", "copy", "adapter", "table"]
Scheduler = Literal["deployed", "ddim", "ddpm", "dpm-solver++", "euler", "pndm", "unipc"]
Weighting = Literal["constant", "elbo", "snr"]
