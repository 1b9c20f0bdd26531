"""What an enriched trial would be."""
