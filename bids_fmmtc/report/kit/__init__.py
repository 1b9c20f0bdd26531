"""What every page is made of: page, sheet, figure, words."""
