"""The contract between the control process and carriers of the configuration (workers, embedding, later xDS)."""
