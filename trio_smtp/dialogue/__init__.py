"""What is decided: commands in, questions out, replies back. Nothing here waits or does I/O."""
