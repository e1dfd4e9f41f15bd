"""ResT in PyTorch: as its authors wrote it, and in the form that is deployed."""
