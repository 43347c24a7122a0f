"""The verbs: each turns options into rows and figures with the public functions."""
