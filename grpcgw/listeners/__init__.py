"""The data ports: which are open, and what becomes of them when the configuration changes."""
