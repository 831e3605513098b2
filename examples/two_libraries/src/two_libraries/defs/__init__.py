"""The components of this code location, one folder each."""
