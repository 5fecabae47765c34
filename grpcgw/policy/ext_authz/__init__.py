"""External authorization: the question to a service, its answer, and the policy that asks."""
