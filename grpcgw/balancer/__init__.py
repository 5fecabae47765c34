"""From a cluster's usable pods to the pod of one RPC: one policy a file, listed in `balancer_catalogue`. Pure, never blocks."""
