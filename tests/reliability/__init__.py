"""What happens when exports are killed, files are hostile and servers are busy; in full by ``make soak``."""
