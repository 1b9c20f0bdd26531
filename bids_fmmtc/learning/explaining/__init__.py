"""What a model looked at: attribution and its checks."""
