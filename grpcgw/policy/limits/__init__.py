"""Rate and concurrency limits: buckets, counting, and the policies that refuse what is too much."""
