"""Judging learners: nested evaluation, measures, intervals, decisions, verdicts."""
