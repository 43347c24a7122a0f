"""The verbs of `spin-llm` as typed signatures; what they do is in `spin_llm.commands`."""
