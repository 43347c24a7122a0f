"""Backends: chat-completions servers, local transformers, replay of recorded calls, scripted replies."""
