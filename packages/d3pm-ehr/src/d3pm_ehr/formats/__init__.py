"""The field's tables in and out: MIMIC-III and -IV, OMOP, MEDS, long and wide tables, the NHDS public-use file."""
