"""What each verb of `spin-diffusion` does."""
