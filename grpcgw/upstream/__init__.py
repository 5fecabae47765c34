"""Clusters, their pods, pools, pickers, health and outliers. Decides only; the engine opens and closes channels."""
