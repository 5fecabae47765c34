"""Picks a pod for each RPC: one balancing policy a file, listed in `balancer_catalogue`. Pure, never blocks."""
