"""What this program writes about a recording, and reads back."""
