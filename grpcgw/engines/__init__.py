"""Engines drive sessions: the contract, and one package for each engine."""
