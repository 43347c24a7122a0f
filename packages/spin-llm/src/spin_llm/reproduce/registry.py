"""The claims in the order in which they are shown."""

from shared_core.claims import ClaimSet

# below the paper's scale the networks are small, and threads that wait for a busy core cost more
claims = ClaimSet("spin-llm", one_thread=("smoke", "laptop"))
