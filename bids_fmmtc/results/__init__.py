"""What an analysis found, as values that training writes and pages read; numbers of numpy at most, no torch."""
