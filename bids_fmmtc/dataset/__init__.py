"""Everything that knows BIDS: finding recordings, and the files this program writes."""
