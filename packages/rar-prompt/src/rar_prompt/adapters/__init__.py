"""Other tools with RaR inside: lm-evaluation-harness, DSPy, inspect_ai; each needs its extra."""
