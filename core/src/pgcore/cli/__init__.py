"""The command line: reads the store, calls the REST API of members. Imported only by command processes, never by the daemon."""
