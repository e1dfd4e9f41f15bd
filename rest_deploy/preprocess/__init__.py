"""Images to arrays: reading them right, and the transform that an artifact declares."""
