"""What happened: counters kept in each worker, reports sent to the control process, and how they are shown."""
