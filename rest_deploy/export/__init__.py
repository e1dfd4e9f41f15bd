"""From the deploy form to the files of each format."""
