"""Posts each change of the role to a URL."""
