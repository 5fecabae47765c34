"""Policies: the contract, the catalogue and the chain; limits, retries and edits of a Mapping; rules for clients."""
