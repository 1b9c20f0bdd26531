"""From a 4-D image to cleaned parcel series, windows and quality numbers; no torch, no BIDS."""
