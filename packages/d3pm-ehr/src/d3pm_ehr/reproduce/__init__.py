"""The claims A-E of the abstract, on the embedded cohort and, where its file is, on the NHDS 2010 survey."""

from d3pm_ehr.reproduce import exact, guided, measured
from d3pm_ehr.reproduce.shared import claims

__all__ = ["claims", "exact", "guided", "measured"]
