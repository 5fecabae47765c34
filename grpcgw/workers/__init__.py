"""Data-plane processes: their supervisor, their main loop, and the messages between them."""
