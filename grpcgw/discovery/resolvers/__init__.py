"""Resolvers, from a service to its pods: one a file, listed in `resolver_catalogue`."""
