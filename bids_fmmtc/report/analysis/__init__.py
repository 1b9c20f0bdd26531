"""What one analysis tells, as figures and sentences."""
