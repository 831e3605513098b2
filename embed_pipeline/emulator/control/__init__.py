"""Controls for tests, which the platform does not have: faults, switches, timing, and the control API."""
