"""What a measurement is made on: CPU, memory, GPUs, packages, and what else was going on meanwhile."""
