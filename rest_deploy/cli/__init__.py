"""The commands. Each is parse, one call, print."""
