"""What a test controls and the platform does not have: faults, switches, timing, and the control API."""
