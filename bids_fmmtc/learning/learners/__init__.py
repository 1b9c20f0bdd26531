"""Ways of learning: linear models and trained heads."""
