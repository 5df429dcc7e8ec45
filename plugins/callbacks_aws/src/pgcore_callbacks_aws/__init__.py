"""Tags an EC2 instance and its volumes with the role of its PostgreSQL: as a plugin (section ``aws``) or as a command."""
