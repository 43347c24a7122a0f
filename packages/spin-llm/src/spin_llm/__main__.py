"""`python -m spin_llm`, which `accelerate launch -m spin_llm` runs in every process."""

import sys

from spin_llm.cli import main

if __name__ == "__main__":
    sys.exit(main())
