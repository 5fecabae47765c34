"""From a cluster's usable pods to the pod of one RPC: one policy a file, listed in `catalogue`. Pure, never blocks."""
