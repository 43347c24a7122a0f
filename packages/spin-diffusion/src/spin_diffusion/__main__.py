"""`python -m spin_diffusion`, which `accelerate launch -m spin_diffusion` runs in every process."""

import sys

from spin_diffusion.cli import main

if __name__ == "__main__":
    sys.exit(main())
