"""What each verb of `spin-llm` does; the command line itself is `spin_llm.cli`."""
