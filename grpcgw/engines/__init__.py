"""What drives sessions: the contract of engines, and one package each."""
