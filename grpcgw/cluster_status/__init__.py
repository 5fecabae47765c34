"""What the gateway writes back to the cluster: status of objects, Events, and the Lease that decides who writes."""
