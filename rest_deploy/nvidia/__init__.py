"""What building and running engines both need of NVIDIA's libraries: which is installed, which GPU, what it logs."""
