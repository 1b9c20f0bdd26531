"""A trained model on disk: its layout, its parts, reading, writing, applying."""
