"""Services that the gateway answers itself: health and reflection."""
