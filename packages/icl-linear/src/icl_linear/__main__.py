"""`python -m icl_linear`."""

import sys

from icl_linear.cli import main

sys.exit(main())
