"""From a service to its pods: one resolver a file, listed in `resolver_catalogue`."""
