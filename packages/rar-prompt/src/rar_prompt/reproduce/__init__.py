"""The paper's claims: the public `transcripts`, the `constructed` ambiguity, the `embedded` real model."""

from rar_prompt.reproduce import constructed, embedded, transcripts
from rar_prompt.reproduce.registry import claims

__all__ = ["claims", "constructed", "embedded", "transcripts"]
