"""The data ports: which are open, and how they change with the configuration."""
