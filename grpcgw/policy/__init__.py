"""What a Mapping adds to its RPCs, one file a policy."""
