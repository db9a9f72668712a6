"""What is done: one client's connection, served by one task."""
