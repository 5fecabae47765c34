"""The neutral configuration that carriers and admin see. Knows no dialect, does no I/O, reads no clock."""
