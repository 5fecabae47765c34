"""Examples that run from a checkout: `python -m examples.greet.server`. Nothing here is installed."""
