"""What each verb of `spin-diffusion` does; the command line itself is `spin_diffusion.cli`."""
