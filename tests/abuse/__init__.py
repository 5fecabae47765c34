"""Bad clients on the data port, each beside an ordinary one that must not notice (docs/hardening.md)."""
