"""Who is in a cohort: outcomes, codes, responses."""
