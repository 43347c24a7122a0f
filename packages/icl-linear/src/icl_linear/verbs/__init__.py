"""What the commands do: each gathers the public functions into rows, figures and a run folder."""
