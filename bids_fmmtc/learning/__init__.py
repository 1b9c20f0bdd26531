"""Heads, bundles, and everything about outcomes."""
