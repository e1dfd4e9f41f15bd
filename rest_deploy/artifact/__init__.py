"""What an artifact says of itself, and how it comes to be on disk."""
