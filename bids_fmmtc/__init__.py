"""Predict drug response in neuropathic pain from a pre-treatment resting-state fMRI scan (a BIDS-App)."""

__version__ = "0.2.0"
