"""Signatures of the verbs of `spin-diffusion`."""
