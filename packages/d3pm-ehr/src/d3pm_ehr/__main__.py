"""`python -m d3pm_ehr`."""

import sys

from d3pm_ehr.cli import main

sys.exit(main())
