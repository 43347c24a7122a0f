"""Rephrase and respond."""

__all__: list[str] = []
