"""Models on a Triton server."""
