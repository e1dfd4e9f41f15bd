"""Repositories for NVIDIA Triton: made of artifacts, and proved by a server that answers as they do."""
