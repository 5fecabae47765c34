"""One RPC without I/O: the state machine between client and pod, and its copies for a shadow."""
