"""Finding recordings and what lies beside them."""
