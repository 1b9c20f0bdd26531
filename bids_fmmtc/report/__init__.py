"""Figures and pages: reads derivatives, draws, writes one self-contained HTML file each."""
