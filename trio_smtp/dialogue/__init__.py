"""What is decided: the SMTP dialogue as a generator, which reads commands, asks for what it needs and makes replies.

Nothing here waits or does I/O.
"""
