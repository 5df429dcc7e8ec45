"""Makes standbys from a file-system snapshot."""
