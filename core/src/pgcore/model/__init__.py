"""Values only: frozen dataclasses without I/O, on the standard library's data modules."""
