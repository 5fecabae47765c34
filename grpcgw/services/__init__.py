"""What the gateway answers itself: health and reflection."""
