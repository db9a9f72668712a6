"""What is done: serves one client's connection in one task, and performs what its dialogue asks for."""
